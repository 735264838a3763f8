#include "prompt/conversation.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "prompt/control_tokens.h"
#include "runtime/error.h"

namespace internvl {
namespace {

bool is_place(const TurnPart& part) { return std::holds_alternative<ImagePlace>(part); }

std::string counted(std::size_t number, std::string_view noun) {
  return std::to_string(number) + " " + std::string(noun) + (number == 1 ? "" : "s");
}

}  // namespace

std::string_view name_of(Role role) { return role == Role::user ? "user" : "assistant"; }

std::string_view name_of(Detail detail) {
  switch (detail) {
    case Detail::low:
      return "low";
    case Detail::high:
      return "high";
    case Detail::automatic:
      break;
  }
  return "auto";
}

std::vector<Turn> read_question(std::string_view question, std::span<const Exchange> history,
                                std::size_t images) {
  std::vector<Turn> turns;
  turns.reserve(2 * history.size() + 1);
  for (const Exchange& exchange : history) {
    turns.push_back({Role::user, read_marks(exchange.question)});
    turns.push_back({Role::assistant, {exchange.answer}});
  }
  turns.push_back({Role::user, read_marks(question)});
  put_images_in_front(turns, images);
  check_image_count(count_image_places(turns), images);
  return turns;
}

std::vector<TurnPart> read_marks(std::string_view text) {
  std::vector<TurnPart> parts;
  const auto add_text = [&](std::string_view piece) {
    if (!piece.empty()) parts.emplace_back(std::string(piece));
  };
  std::size_t at = text.find(kImageMark);
  while (at != std::string_view::npos) {
    add_text(text.substr(0, at));
    parts.emplace_back(ImagePlace());
    text.remove_prefix(at + kImageMark.size());
    at = text.find(kImageMark);
  }
  add_text(text);
  return parts;
}

void put_images_in_front(std::vector<Turn>& turns, std::size_t images) {
  if (turns.size() != 1 || images == 0) return;
  std::vector<TurnPart>& parts = turns.front().parts;
  if (std::ranges::any_of(parts, is_place)) return;
  std::vector<TurnPart> front;
  for (std::size_t i = 0; i < images; ++i) {
    if (images > 1) front.emplace_back("Image-" + std::to_string(i + 1) + ": ");
    front.emplace_back(ImagePlace());
    front.emplace_back("\n");
  }
  parts.insert(parts.begin(), std::make_move_iterator(front.begin()), std::make_move_iterator(front.end()));
}

std::size_t count_image_places(std::span<const Turn> turns) {
  std::size_t places = 0;
  for (const Turn& turn : turns) {
    places += static_cast<std::size_t>(std::ranges::count_if(turn.parts, is_place));
  }
  return places;
}

void check_image_count(std::size_t places, std::size_t images) {
  if (places == images) return;
  const std::string mark(kImageMark);
  const std::string advice =
      places > images ? "Give " + std::to_string(places) + " images, or remove " + mark + " marks."
                      : "Mark the place of every image with " + mark + ", in the order of the images.";
  throw PromptError("the prompt has " + counted(places, "image place") + "; " + counted(images, "image") +
                    " given. " + advice);
}

}  // namespace internvl
