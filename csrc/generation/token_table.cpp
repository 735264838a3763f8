#include "generation/token_table.h"

#include <tuple>

namespace internvl {

TokenTable::TokenTable(const Tokenizer& tokenizer, std::size_t vocab_size) : bytes_(vocab_size) {
  const std::size_t end = std::min(vocab_size, tokenizer.vocab_size());
  for (std::size_t i = 0; i < end; ++i) {
    const auto id = static_cast<std::int64_t>(i);
    bytes_[i] = tokenizer.token_bytes(id, KeepTokens::all, false);
    if (tokenizer.is_special(id)) {
      special_ids_.push_back(id);
      continue;
    }
    if (bytes_[i].empty()) continue;
    longest_ = std::max(longest_, bytes_[i].size());
    sorted_.push_back({bytes_[i], id});
  }
  std::sort(sorted_.begin(), sorted_.end(),
            [](const Token& a, const Token& b) { return std::tie(a.bytes, a.id) < std::tie(b.bytes, b.id); });
}

std::vector<TokenTable::Token>::const_iterator TokenTable::lower_bound(std::string_view bytes) const {
  return std::lower_bound(sorted_.begin(), sorted_.end(), bytes,
                          [](const Token& token, std::string_view wanted) { return token.bytes < wanted; });
}

}  // namespace internvl
