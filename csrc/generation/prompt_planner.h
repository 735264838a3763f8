// From a conversation and its pictures to a prompt that fits the context.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "bundle/manifest.h"
#include "generation/tile_budget.h"
#include "prompt/conversation.h"
#include "prompt/renderer.h"
#include "prompt/tokenizer.h"

namespace internvl {

// A picture of a question: its size in pixels, and into how many tiles it is cut.
struct PlannedPicture {
  std::int64_t width;
  std::int64_t height;
  int max_tiles;       // its thumbnail not counted; 0 where it is encoded already
  std::int64_t tiles;  // its thumbnail included
};

// What the pictures of a question are, in the words of an error.
enum class PictureKind : std::uint8_t { pictures, frames };

// May be used from several threads.
class PromptPlanner {
 public:
  // `context_tokens`: a prompt and its answer end here.
  PromptPlanner(std::shared_ptr<const Tokenizer> tokenizer, std::shared_ptr<const PromptRenderer> renderer,
                const Manifest& manifest, std::size_t context_tokens);

  // Gives the pictures fewer tiles where the longest of several conversations about them would not fit the
  // context: as many as leave a quarter of it for the answer, if that may be so long. They stay as they are
  // where even one tile each would be too many. `as_one`: they stand in one place. Throws PromptError as
  // render().
  void fit(std::span<PlannedPicture> pictures, std::span<const Conversation> conversations, bool as_one,
           std::size_t max_new_tokens) const;

  // Writes a conversation down, see PromptRenderer::render(). `tiles`: of every image place. Throws
  // PromptError too if its text is so long that tokenising alone would take seconds and it could not fit,
  // whatever its tokens are.
  RenderedPrompt render(const Conversation& conversation, std::span<const std::int64_t> tiles) const;

  // Throws PromptError unless a prompt [n] leaves a token of the context for its answer. `tiles`: of every
  // picture in it.
  void check_length(std::span<const std::int64_t> ids, std::span<const std::int64_t> tiles,
                    PictureKind kind = PictureKind::pictures) const;

  std::int64_t image_context_id() const { return image_context_id_; }

 private:
  std::size_t frames_that_fit(std::span<const std::int64_t> ids, std::size_t frames) const;

  std::shared_ptr<const Tokenizer> tokenizer_;
  std::shared_ptr<const PromptRenderer> renderer_;
  TilingOptions tiling_;
  RopeFacts rope_;
  std::int64_t image_context_id_;
  std::size_t tokens_per_tile_;
  std::size_t context_tokens_;
};

// The tiles of every place, from those of every picture.
std::vector<std::int64_t> tiles_of_places(std::span<const PlannedPicture> pictures, bool as_one);

}  // namespace internvl
