// What is asked: turns of text and image places, and how a question that is a string becomes these.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace internvl {

enum class Role : std::uint8_t { user, assistant };

std::string_view name_of(Role role);

// How closely a picture is looked at.
enum class Detail : std::uint8_t { low, high, automatic };

std::string_view name_of(Detail detail);

// Where one image stands in a message.
struct ImagePlace {
  // What its item asks for, as in the OpenAI API; none where it does not say.
  std::optional<Detail> detail;

  bool operator==(const ImagePlace&) const = default;
};

// An answer as the model wrote it: its tokens, which stay what they are.
struct GeneratedTokens {
  std::vector<std::int64_t> ids;

  bool operator==(const GeneratedTokens&) const = default;
};

using TurnPart = std::variant<std::string, ImagePlace, GeneratedTokens>;

// One message: texts, image places and generated tokens in their order.
struct Turn {
  Role role = Role::user;
  std::vector<TurnPart> parts;

  bool operator==(const Turn&) const = default;
};

struct Conversation {
  std::vector<Turn> turns;            // the last one is the user's
  std::optional<std::string> system;  // replaces the system message of bundle and template

  bool operator==(const Conversation&) const = default;
};

// One round of a conversation that is over.
struct Exchange {
  std::string question;
  std::string answer;
};

// The turns of a question that is a string, after earlier rounds.
//
// <image> marks the place of an image; in answers it is plain text. A single question without a mark has its
// images in front (see put_images_in_front()). Throws PromptError as check_image_count() does.
std::vector<Turn> read_question(std::string_view question, std::span<const Exchange> history,
                                std::size_t images);

// Text of a user with the places that <image> marks in it.
std::vector<TurnPart> read_marks(std::string_view text);

// A single question without image places gets one in front, and a newline; or for each of several images a
// line "Image-1: <image>" and so on. Other conversations stay as they are.
void put_images_in_front(std::vector<Turn>& turns, std::size_t images);

std::size_t count_image_places(std::span<const Turn> turns);

// Throws PromptError unless every image has a place and every place an image.
void check_image_count(std::size_t places, std::size_t images);

}  // namespace internvl
