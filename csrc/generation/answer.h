// What a question gives back: the answer, where the time went, and what it used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace internvl {

// A stop token, a stop string or the end of the answer's form; max_new_tokens or the context's end; a call of
// cancel().
enum class FinishReason : std::uint8_t { stop, length, cancelled };

// Milliseconds of wall-clock time. The first five are stages that follow one another; work that was not done
// counts 0.
struct Timings {
  double decode_image = 0.0;  // files and bytes to RGB pixels
  double tile = 0.0;          // resampling and cutting
  double vit = 0.0;
  double projector = 0.0;    // pixel shuffle included
  double prefill = 0.0;      // the prompt, to the logits of its last position
  double first_token = 0.0;  // from the call to the first token
  double per_token = 0.0;    // mean of every token after the first
  double total = 0.0;        // from the call to the finished answer
};

struct Usage {
  std::size_t tiles = 0;          // of all pictures, thumbnails included
  std::size_t tiles_wanted = 0;   // more than that where they did not fit the context
  std::size_t cached_tiles = 0;   // of the tiles, those that an earlier picture had too
  std::size_t image_tokens = 0;   // prompt tokens that stand for pictures
  std::size_t prompt_tokens = 0;  // image tokens included
  std::size_t reused_tokens = 0;  // of them, those that an earlier request had computed
  std::size_t dropped_turns = 0;  // of a session, those that did not fit the context any more
  std::size_t new_tokens = 0;     // without the stop token
  std::size_t forced_tokens = 0;  // of them, those that the form left no choice about
};

struct Answer {
  std::string text;
  std::vector<std::int64_t> token_ids;  // without the stop token
  FinishReason finish_reason = FinishReason::cancelled;
  Timings timings;
  Usage usage;
  std::string grounding_text;  // with the grounding tokens kept
};

}  // namespace internvl
