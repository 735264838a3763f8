#include "prompt/unknown_component.h"

#include <string>

#include "runtime/error.h"
#include "runtime/utf8.h"

namespace internvl {

void throw_unknown_component(std::string_view component, const json::Value& document) {
  constexpr std::size_t kShown = 300;
  std::string written;
  for (const char c : document.text()) {
    const bool space = c == ' ' || c == '\n' || c == '\r' || c == '\t';
    if (!space) written.push_back(c);
    if (space && !written.ends_with(' ')) written.push_back(' ');
  }
  if (written.size() > kShown) {
    std::size_t end = kShown;
    while ((static_cast<unsigned char>(written[end]) & 0xC0) == 0x80) --end;
    written = written.substr(0, end) + "...";
  }
  throw BundleError("the tokenizer's " + std::string(component) + " " + written + " is not known.");
}

}  // namespace internvl
