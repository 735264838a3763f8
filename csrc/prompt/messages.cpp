#include "prompt/messages.h"

#include <utility>

#include "runtime/error.h"
#include "runtime/quoted.h"

namespace internvl {
namespace {

constexpr std::string_view kSystem = "system";

}  // namespace

Conversation read_messages(std::span<const Message> messages, std::size_t images) {
  MessageReader reader;
  for (const Message& message : messages) {
    reader.begin_message(message.role, quoted(message.role));
    if (const auto* text = std::get_if<std::string>(&message.content)) {
      reader.text_content(*text);
      continue;
    }
    for (const TurnPart& item : std::get<std::vector<TurnPart>>(message.content)) {
      if (const auto* text = std::get_if<std::string>(&item)) {
        reader.begin_item("text", "'text'");
        reader.text_item(*text);
      } else {
        reader.begin_item("image", "'image'");
        reader.image_item(std::get<ImagePlace>(item));
      }
    }
  }
  reader.end();
  return {reader.turns(images), reader.system()};
}

std::string MessageReader::where() const { return "messages[" + std::to_string(messages_ - 1) + "]"; }

void MessageReader::begin_message(std::string_view role, std::string_view shown) {
  ++messages_;
  items_ = 0;
  is_string_ = false;
  if (role == kSystem) {
    if (messages_ > 1) {
      throw PromptError(where() + " is a system message; only the first message can be one.");
    }
    system_.emplace();
  } else {
    const Role next = turns_.size() % 2 == 0 ? Role::user : Role::assistant;
    if (role != name_of(next)) {
      throw PromptError(
          where() + " has the role " + std::string(shown) + "; '" + std::string(name_of(next)) +
          "' was expected: after an optional system message, 'user' and 'assistant' take turns.");
    }
    turns_.push_back({next, {}});
  }
  role_ = role;
}

void MessageReader::text_content(std::string_view text) {
  is_string_ = true;
  if (role_ == name_of(Role::user)) {
    turns_.back().parts = read_marks(text);
  } else {
    text_item(text);
  }
}

ItemKind MessageReader::begin_item(std::string_view type, std::string_view shown) {
  const std::size_t item = items_++;
  const auto fail = [&](const std::string& expected) {
    throw PromptError(where() + "['content'][" + std::to_string(item) + "] has the type " +
                      std::string(shown) + "; " + expected);
  };
  if (type == "text") return ItemKind::text;
  if (role_ != name_of(Role::user)) fail("messages of the role '" + role_ + "' take 'text' only.");
  if (type != "image" && type != "image_url") fail("expected 'text', 'image' or 'image_url'.");
  return ItemKind::image;
}

void MessageReader::text_item(std::string_view text) {
  if (system_ && role_ == kSystem) {
    *system_ += text;
  } else {
    add(std::string(text));
  }
}

void MessageReader::image_item(const ImagePlace& place) {
  add(place);
  add("\n");
}

void MessageReader::add(TurnPart part) {
  if (!turns_.empty()) turns_.back().parts.push_back(std::move(part));
}

void MessageReader::end() const {
  if (turns_.empty() || turns_.back().role != Role::user) {
    throw PromptError("the last message must be the user's: it is the question to answer.");
  }
}

std::vector<Turn> MessageReader::turns(std::size_t images) const {
  std::vector<Turn> turns = turns_;
  if (is_string_) put_images_in_front(turns, images);
  check_image_count(count_image_places(turns), images);
  return turns;
}

}  // namespace internvl
