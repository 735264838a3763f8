// Tokens beside a model's own vocabulary, and how text is cut at them.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/function_ref.h"

namespace internvl {

struct AddedToken {
  std::string content;
  std::int64_t id = 0;
  bool single_word = false;  // only where no letter, mark or digit stands beside it
  bool lstrip = false;       // eats the white space in front of it
  bool rstrip = false;       // eats the white space behind it
  bool normalized = false;   // looked for in text that the normaliser has changed
  bool special = false;
};

// Cuts text at tokens by the rules of the `tokenizers` library: from the left, the longest one first, spaces
// and words by the flags.
class TokenCutter {
 public:
  // Looks for `pattern`, and finds `token` there. The first of two equal patterns counts.
  void add(std::string_view pattern, const AddedToken& token);

  // Calls text() for what is between tokens, never with nothing, and token() for each token, in their order.
  void cut(std::string_view text, FunctionRef<void(std::string_view)> between,
           FunctionRef<void(std::int64_t)> token) const;

 private:
  struct Rule {
    std::int64_t id;
    bool single_word;
    bool lstrip;
    bool rstrip;
  };
  struct Node {
    std::vector<std::pair<char, std::uint32_t>> next;
    std::int32_t rule = -1;
  };
  struct Match {
    const Rule* rule;
    std::size_t end;
  };

  Match match_at(std::string_view text, std::size_t at) const;

  std::vector<Rule> rules_;
  std::vector<Node> nodes_ = std::vector<Node>(1);
  std::array<bool, 256> begins_ = {};
};

// Where white space at the beginning of a text ends, and where that at its end begins.
std::size_t end_of_leading_space(std::string_view text);
std::size_t begin_of_trailing_space(std::string_view text);

}  // namespace internvl
