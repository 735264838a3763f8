// The tokens of a vocabulary by the bytes that they write.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "prompt/tokenizer.h"

namespace internvl {

// Special tokens and those that write nothing are left out. May be used from several threads.
class TokenTable {
 public:
  // Ids from `vocab_size` on are not the model's.
  TokenTable(const Tokenizer& tokenizer, std::size_t vocab_size);

  std::size_t vocab_size() const { return vocab_size_; }

  // Calls found(id, length) for every token that a text begins with, the shortest first.
  template <class Found>
  void prefixes(std::string_view text, Found found) const {
    const std::size_t most = std::min(text.size(), longest_);
    for (std::size_t length = 1; length <= most; ++length) {
      const std::string_view bytes = text.substr(0, length);
      for (auto at = lower_bound(bytes); at != tokens_.end() && at->bytes == bytes; ++at)
        found(at->id, length);
    }
  }

 private:
  struct Token {
    std::string bytes;
    std::int64_t id;
  };

  std::vector<Token>::const_iterator lower_bound(std::string_view bytes) const;

  std::vector<Token> tokens_;  // in the order of their bytes
  std::size_t longest_ = 0;    // in bytes
  std::size_t vocab_size_;
};

}  // namespace internvl
