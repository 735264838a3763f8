#include "generation/prompt_planner.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "runtime/error.h"
#include "runtime/utf8.h"

namespace internvl {
namespace {

// Characters; they are tokenised in less time than a tile takes.
constexpr std::size_t long_text = std::size_t{1} << 16U;

// 1234567 as 1,234,567.
std::string grouped(std::size_t number) {
  std::string digits = std::to_string(number);
  for (std::size_t end = digits.size(); end > 3; end -= 3) digits.insert(end - 3, 1, ',');
  return digits;
}

std::size_t characters_of(const Conversation& conversation) {
  std::size_t characters = conversation.system ? utf8::count(*conversation.system) : 0;
  for (const Turn& turn : conversation.turns) {
    for (const TurnPart& part : turn.parts) {
      if (const auto* text = std::get_if<std::string>(&part)) characters += utf8::count(*text);
    }
  }
  return characters;
}

std::int64_t sum_of(std::span<const std::int64_t> tiles) {
  return std::accumulate(tiles.begin(), tiles.end(), std::int64_t{0});
}

std::int64_t tiles_of(std::span<const PlannedPicture> pictures) {
  std::int64_t tiles = 0;
  for (const PlannedPicture& picture : pictures) tiles += picture.tiles;
  return tiles;
}

}  // namespace

std::vector<std::int64_t> tiles_of_places(std::span<const PlannedPicture> pictures, bool as_one) {
  if (as_one) return {tiles_of(pictures)};
  std::vector<std::int64_t> tiles;
  for (const PlannedPicture& picture : pictures) tiles.push_back(picture.tiles);
  return tiles;
}

PromptPlanner::PromptPlanner(std::shared_ptr<const Tokenizer> tokenizer,
                             std::shared_ptr<const PromptRenderer> renderer, const Manifest& manifest,
                             std::size_t context_tokens)
    : tokenizer_(std::move(tokenizer)),
      renderer_(std::move(renderer)),
      tiling_(manifest.tiling.options),
      rope_(manifest.llm.decoder.rope),
      image_context_id_(manifest.prompt.image_context_id),
      tokens_per_tile_(manifest.vision.image_tokens()),
      context_tokens_(context_tokens) {}

void PromptPlanner::fit(std::span<PlannedPicture> pictures, std::span<const Conversation> conversations,
                        bool as_one, std::size_t max_new_tokens) const {
  if (pictures.empty()) return;
  std::size_t longest = 0;
  for (const Conversation& conversation : conversations) {
    longest = std::max(longest, render(conversation, tiles_of_places(pictures, as_one)).input_ids.size());
  }
  if (longest < context_tokens_) return;
  const auto context = static_cast<std::int64_t>(context_tokens_);
  const auto per_tile = static_cast<std::int64_t>(tokens_per_tile_);
  const auto answer = static_cast<std::int64_t>(std::min(max_new_tokens, context_tokens_ / 4));
  const std::int64_t text = static_cast<std::int64_t>(longest) - tiles_of(pictures) * per_tile;
  int most = 0;
  for (const PlannedPicture& picture : pictures) most = std::max(most, picture.max_tiles);
  while (--most > 0) {
    std::vector<PlannedPicture> fewer(pictures.begin(), pictures.end());
    for (PlannedPicture& picture : fewer) {
      if (most >= picture.max_tiles) continue;
      picture.max_tiles = most;
      picture.tiles = count_tiles(picture.width, picture.height, tiling_, most);
    }
    if (tiles_of(fewer) * per_tile > context - answer - text) continue;
    std::ranges::copy(fewer, pictures.begin());
    return;
  }
}

RenderedPrompt PromptPlanner::render(const Conversation& conversation,
                                     std::span<const std::int64_t> tiles) const {
  const std::size_t characters = characters_of(conversation);
  if (characters > std::max(long_text, context_tokens_)) {
    const std::size_t most = context_tokens_ * tokenizer_->longest_token();
    if (characters > most) {
      throw PromptError("the text has " + grouped(characters) +
                        " characters, which is more than the context of " + std::to_string(context_tokens_) +
                        " tokens can hold: " + grouped(most) +
                        ", if all of them were the longest token. Shorten the text.");
    }
  }
  return renderer_->render(conversation, tiles);
}

void PromptPlanner::check_length(std::span<const std::int64_t> ids, std::span<const std::int64_t> tiles,
                                 PictureKind kind) const {
  if (ids.size() < context_tokens_) return;
  std::string about;
  std::vector<std::string> advice{"shorten the text"};
  ErrorCode code = ErrorCode::none;
  if (!tiles.empty()) {
    const std::int64_t all = sum_of(tiles);
    const bool frames = kind == PictureKind::frames;
    about = std::string(" ") + std::to_string(all * static_cast<std::int64_t>(tokens_per_tile_)) +
            " of them are for " + std::to_string(all) + " tiles of " + std::to_string(tiles.size()) +
            (frames              ? " frames."
             : tiles.size() == 1 ? " picture."
                                 : " pictures.");
    if (!frames) {
      advice = {"lower max_tiles", "give fewer pictures", "shorten the text"};
    } else if (const std::size_t fitting = frames_that_fit(ids, tiles.size()); fitting > 0) {
      advice = {"take " + std::to_string(fitting) + " frames"};
      code = ErrorCode::too_many_frames;
    }
  }
  if (context_tokens_ < rope_.max_positions) {
    advice.push_back("load the model with a larger cache_tokens (it takes contexts up to " +
                     std::to_string(rope_.max_positions) + ")");
  } else if (ids.size() < rope_.longest_context()) {
    advice.push_back("load the model with a larger max_context (its rope stretches to " +
                     std::to_string(rope_.longest_context()) + ")");
  }
  std::string helps;
  for (const std::string& one : advice) helps += (helps.empty() ? "" : ", or ") + one;
  throw PromptError("the prompt has " + std::to_string(ids.size()) +
                        " tokens, and prompt and answer together have a context of " +
                        std::to_string(context_tokens_) + "." + about + " What helps: " + helps + ".",
                    code);
}

// Each frame counts as much as the others, and a token is left for the answer.
std::size_t PromptPlanner::frames_that_fit(std::span<const std::int64_t> ids, std::size_t frames) const {
  const auto first = std::ranges::find(ids, image_context_id_);
  const auto last = std::find(ids.rbegin(), ids.rend(), image_context_id_).base();
  if (first >= last) return 0;
  const auto of_frames = static_cast<std::size_t>(last - first);
  const std::size_t taken = ids.size() - of_frames + 1;
  return taken > context_tokens_ ? 0 : (context_tokens_ - taken) * frames / of_frames;
}

}  // namespace internvl
