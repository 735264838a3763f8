#include "generation/token_table.h"

#include <tuple>
#include <utility>

namespace internvl {

TokenTable::TokenTable(const Tokenizer& tokenizer, std::size_t vocab_size) : vocab_size_(vocab_size) {
  const auto end = static_cast<std::int64_t>(std::min(vocab_size, tokenizer.vocab_size()));
  for (std::int64_t id = 0; id < end; ++id) {
    if (tokenizer.is_special(id)) continue;
    std::string bytes = tokenizer.token_bytes(id, KeepTokens::all, false);
    if (bytes.empty()) continue;
    longest_ = std::max(longest_, bytes.size());
    tokens_.push_back({std::move(bytes), id});
  }
  std::sort(tokens_.begin(), tokens_.end(),
            [](const Token& a, const Token& b) { return std::tie(a.bytes, a.id) < std::tie(b.bytes, b.id); });
}

std::vector<TokenTable::Token>::const_iterator TokenTable::lower_bound(std::string_view bytes) const {
  return std::lower_bound(tokens_.begin(), tokens_.end(), bytes,
                          [](const Token& token, std::string_view wanted) { return token.bytes < wanted; });
}

}  // namespace internvl
