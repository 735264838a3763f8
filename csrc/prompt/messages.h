// Questions as messages, [{"role": ..., "content": ...}] in the APIs of chat models.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "prompt/conversation.h"

namespace internvl {

struct Message {
  std::string role;  // system, user or assistant
  // A string, in which <image> marks the place of an image if the message is the user's; or a list of items,
  // texts and images, in which it is plain text.
  std::variant<std::string, std::vector<TurnPart>> content;
};

// Reads messages: after an optional system message, user and assistant take turns, and the last message is
// the user's. A single message whose content is a string has its images where read_question() puts them. An
// image item is followed by a newline, as in the models' own template.
//
// Throws PromptError if the order of roles or the content of a message is another one, or as
// check_image_count() does.
Conversation read_messages(std::span<const Message> messages, std::size_t images);

enum class ItemKind : std::uint8_t { text, image };

// The same for messages that come one by one, and may be found malformed on the way.
//
// For each message: begin_message(), then text_content(); or for each item begin_item(), then text_item() or
// image_item(). After the last one: end(), then turns() and system(). Errors name roles and types as `shown`.
// Not for several threads at once.
class MessageReader {
 public:
  // Throws PromptError unless a message of this role may come next.
  void begin_message(std::string_view role, std::string_view shown);
  // The content where it is a string.
  void text_content(std::string_view text);
  // What an item is by its type: text, image or image_url. Throws PromptError for another type, and for an
  // image in a message that is not the user's.
  ItemKind begin_item(std::string_view type, std::string_view shown);
  void text_item(std::string_view text);
  void image_item(const ImagePlace& place);

  // Throws PromptError unless the last message is the user's.
  void end() const;
  // The turns with a place for each image. Throws PromptError as check_image_count() does.
  std::vector<Turn> turns(std::size_t images) const;
  // The system message; none if there was none.
  const std::optional<std::string>& system() const { return system_; }

 private:
  std::string where() const;
  void add(TurnPart part);

  std::size_t messages_ = 0;
  std::size_t items_ = 0;   // of the last message
  std::string role_;        // of the last message
  bool is_string_ = false;  // the content of the last message
  std::vector<Turn> turns_;
  std::optional<std::string> system_;
};

}  // namespace internvl
