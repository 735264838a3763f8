// What a sequence of the KV cache was computed from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace internvl {

// Image places that follow one another in a prompt, and what stands in them.
struct ImageRun {
  std::string key;  // the SHA-256 of the pixels that were encoded, or of the features; nobody can make two
                    // that share it
  std::size_t tokens;

  bool operator==(const ImageRun&) const = default;
};

// The positions before `end`, and behind the run before this one, have these rotary frequencies: see
// RopeFacts::frequencies_of().
struct FrequencyRun {
  std::size_t end;
  std::size_t frequencies;
};

struct SequenceContent {
  std::vector<std::int64_t> ids;          // [tokens]
  std::vector<ImageRun> images;           // of all image places in ids, in their order
  std::vector<FrequencyRun> frequencies;  // of all positions
  std::string salt;                       // who may know of it

  // Appends a token that was decoded.
  void append(std::int64_t id, std::size_t frequencies_of_length);
};

// Tokens from the beginning of a prompt that `kept` has computed already, as a prefill of the prompt would: a
// part of an image run never counts. Keys depend on all tokens before, so that the first difference ends it.
// `frequencies`: of a sequence as long as the prompt.
std::size_t common_prefix(const SequenceContent& kept, const SequenceContent& prompt, std::size_t frequencies,
                          std::int64_t image_context_id);

}  // namespace internvl
