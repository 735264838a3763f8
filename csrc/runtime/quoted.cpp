#include "runtime/quoted.h"

namespace internvl {

std::string quoted(std::string_view text) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  const bool apostrophe = text.find('\'') != std::string_view::npos;
  const char mark = apostrophe && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string shown(1, mark);
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == mark || c == '\\') {
      shown += {'\\', c};
    } else if (c == '\n') {
      shown += "\\n";
    } else if (c == '\r') {
      shown += "\\r";
    } else if (c == '\t') {
      shown += "\\t";
    } else if (byte < 0x20 || byte == 0x7F) {
      shown += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 0xF]};
    } else {
      shown += c;
    }
  }
  return shown + mark;
}

}  // namespace internvl
