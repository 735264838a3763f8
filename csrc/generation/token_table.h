// The tokens of a vocabulary by the bytes that they write.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "prompt/tokenizer.h"

namespace internvl {

// Every form of an answer is kept with it. May be used from several threads.
class TokenTable {
 public:
  // Ids from `vocab_size` on are not the model's.
  TokenTable(const Tokenizer& tokenizer, std::size_t vocab_size);
  ~TokenTable() = default;
  TokenTable(const TokenTable&) = delete;
  TokenTable& operator=(const TokenTable&) = delete;
  TokenTable(TokenTable&&) = delete;
  TokenTable& operator=(TokenTable&&) = delete;

  std::size_t vocab_size() const { return bytes_.size(); }
  // What every token writes [vocab]; nothing for ids that the tokenizer does not have.
  std::span<const std::string> bytes() const { return bytes_; }
  // Tokens that no text becomes, in the order of their ids.
  std::span<const std::int64_t> special_ids() const { return special_ids_; }

  // Calls found(id, length) for every token that a text begins with, the shortest first. Special tokens and
  // those that write nothing are left out.
  template <class Found>
  void prefixes(std::string_view text, Found found) const {
    const std::size_t most = std::min(text.size(), longest_);
    for (std::size_t length = 1; length <= most; ++length) {
      const std::string_view bytes = text.substr(0, length);
      for (auto at = lower_bound(bytes); at != sorted_.end() && at->bytes == bytes; ++at)
        found(at->id, length);
    }
  }

 private:
  struct Token {
    std::string_view bytes;
    std::int64_t id;
  };

  std::vector<Token>::const_iterator lower_bound(std::string_view bytes) const;

  std::vector<std::string> bytes_;
  std::vector<std::int64_t> special_ids_;
  std::vector<Token> sorted_;  // in the order of their bytes
  std::size_t longest_ = 0;    // in bytes
};

}  // namespace internvl
