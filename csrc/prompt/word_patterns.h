// Where the tokenizers of the model families cut text into words, written out by hand.
#pragma once

#include <cstddef>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace internvl {

// The end of the word that begins at a position. The text is right UTF-8; the end is behind the position.
using WordEnd = std::size_t (*)(std::string_view text, std::size_t at);

// The cutting that a regular expression stands for, or nullptr where it is not known. Known are those of Qwen
// 2 to 3, Llama 3 and GPT-2.
WordEnd known_word_pattern(std::string_view regex);

// Of GPT-2: what ByteLevel cuts with unless it is told not to.
std::size_t gpt2_word_end(std::string_view text, std::size_t at);

// A list of alternatives, each a sequence of classes of characters such as ` [a-z][a-z]`, and `[\s\S]` at the
// end.
class ClassSequences {
 public:
  // Whether a regular expression is such a list; this then holds it.
  bool read(std::string_view regex);

  std::size_t word_end(std::string_view text, std::size_t at) const;

 private:
  struct Range {
    char32_t first;
    char32_t last;
  };
  std::vector<std::vector<Range>> alternatives_;
};

}  // namespace internvl
