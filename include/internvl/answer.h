// What a question gives back.
#pragma once

#include <internvl/c.h>

#include <cstdint>
#include <string>
#include <vector>

namespace internvl {
inline namespace api0 {

/// Why an answer ended.
enum class FinishReason {
  stop = INTERNVL_STOP,      ///< the model ended it, or a stop text or the end of its form did
  length = INTERNVL_LENGTH,  ///< max_new_tokens, or the end of the context
  cancelled = INTERNVL_CANCELLED,
};

/// Milliseconds of wall-clock time. The first five are stages that follow one another.
struct Timings {
  double decode_image = 0.0;  ///< converting pixels to RGB
  double tile = 0.0;          ///< resizing and cutting
  double vit = 0.0;           ///< the vision tower
  double projector = 0.0;     ///< pixel shuffle included
  double prefill = 0.0;       ///< the prompt, to the logits of its last position
  double first_token = 0.0;   ///< from the call to the first token
  double per_token = 0.0;     ///< mean of every token after the first
  double total = 0.0;         ///< from the call to the finished answer
};

/// What an answer used.
struct Usage {
  std::int64_t tiles = 0;          ///< of all pictures, thumbnails included
  std::int64_t tiles_wanted = 0;   ///< more than that where they did not fit the context
  std::int64_t image_tokens = 0;   ///< prompt tokens that stand for pictures
  std::int64_t prompt_tokens = 0;  ///< image tokens included
  std::int64_t new_tokens = 0;     ///< without the stop token
  std::int64_t forced_tokens = 0;  ///< of them, those that `choices` left no choice about
  std::int64_t cached_tiles = 0;   ///< of the tiles, those whose features were kept from an earlier picture
  std::int64_t reused_tokens = 0;  ///< of the prompt, those that an earlier call had computed
  std::int64_t dropped_turns = 0;  ///< of a session, those that did not fit the context any more
};

/// An answer, in UTF-8.
struct Answer {
  std::string text;
  std::vector<std::int64_t> token_ids;  ///< without the stop token
  FinishReason finish_reason = FinishReason::cancelled;
  Usage usage;
  Timings timings;
  std::string grounding_text;  ///< the text with <ref> and <box> kept
};

/// What was added to an answer while it is written: whole characters, often none.
struct Piece {
  std::string text;
  std::vector<std::int64_t> token_ids;
};

}  // namespace api0
}  // namespace internvl
