// What the patterns and the normaliser of tokenizers ask of code points. The tables are those of the
// `tokenizers` library (0.22.2 and newer), which the models' files were written for; see
// make_unicode_tables.py.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace internvl::unicode {

// Classes of code points, as bits.
enum Class : std::uint8_t {
  kLetter = 1,    // \p{L}
  kNumber = 2,    // \p{N}
  kSpace = 4,     // \s
  kWord = 8,      // \w of added tokens that stand for single words
  kNumeric = 16,  // what the pre-tokenizer Digits cuts off
};

std::uint8_t classes(char32_t code_point);

// Canonical composition (NFC). The text is right UTF-8.
std::string composed(std::string_view text);

}  // namespace internvl::unicode
