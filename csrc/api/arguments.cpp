#include "api/arguments.h"

#include <string_view>

#include "runtime/utf8.h"

namespace internvl::api {

void throw_newer(const char* name, std::size_t size) {
  throw Error(std::string(name) + " has " + std::to_string(size) +
              " bytes, which this version of the library (" + internvl_version() +
              ") does not know. Set its size, and use the headers that came with the library.");
}

std::string text_of(const char* text, std::size_t length, const char* name) {
  if (text == nullptr && length > 0) require_pointer(text, name);
  return utf8::repaired(std::string_view(text == nullptr ? "" : text, length));
}

std::string text_of(const char* text, const char* name) {
  require_pointer(text, name);
  return utf8::repaired(text);
}

std::vector<std::string> texts_of(const char* const* texts, std::size_t count, const char* name) {
  std::vector<std::string> all;
  all.reserve(count);
  if (count > 0) require_pointer(texts, name);
  for (std::size_t i = 0; i < count; ++i) all.push_back(text_of(texts[i], name));
  return all;
}

}  // namespace internvl::api
