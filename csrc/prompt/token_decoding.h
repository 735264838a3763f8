// How a token of a model's vocabulary becomes bytes of text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/json.h"

namespace internvl {

// The decoder of a tokenizer.json. Two kinds are known: byte-level (Qwen, Llama 3) and SentencePiece with
// byte fallback (InternLM2, Phi-3).
class TokenDecoding {
 public:
  // Throws BundleError that names a decoder of another kind.
  explicit TokenDecoding(const json::Value& document);

  bool byte_level() const { return byte_level_; }
  bool byte_fallback() const { return byte_fallback_; }
  // So many spaces at the very start of a text are the tokenizer's, not the model's.
  std::int64_t artificial_spaces() const { return artificial_spaces_; }

  // The bytes of a token with this text in the vocabulary. `strip_space`: without the space in front, unless
  // that is a byte token, which the model meant.
  std::string bytes(std::string_view token, bool strip_space) const;

 private:
  void read(const json::Value& document);

  bool byte_level_ = false;
  bool byte_fallback_ = false;
  std::int64_t artificial_spaces_ = 0;
  std::vector<std::pair<std::string, std::string>> replacements_;
};

}  // namespace internvl
