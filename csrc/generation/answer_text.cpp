#include "generation/answer_text.h"

#include <utility>

#include "runtime/utf8.h"

namespace internvl {
namespace {

bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

std::size_t white_at_start(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    const utf8::CodePoint character = utf8::decode(text, at);
    if (!is_white_space(character.value)) break;
    at += character.length;
  }
  return at;
}

std::size_t end_without_white(std::string_view text) {
  std::size_t end = text.size();
  while (end > 0) {
    const std::size_t at = utf8::before(text, end);
    if (!is_white_space(utf8::decode(text, at).value)) break;
    end = at;
  }
  return end;
}

}  // namespace

std::string_view stripped(std::string_view text) {
  text.remove_prefix(white_at_start(text));
  return text.substr(0, end_without_white(text));
}

std::string AnswerText::strip(std::string text) {
  if (verbatim_) return text;
  if (!begun_) {
    text.erase(0, white_at_start(text));
    begun_ = !text.empty();
  }
  text.insert(0, std::exchange(white_, {}));
  const std::size_t end = end_without_white(text);
  white_ = text.substr(end);
  text.resize(end);
  return text;
}

std::string text_of(const std::shared_ptr<const Tokenizer>& tokenizer, std::span<const std::int64_t> ids,
                    const DetokeniserOptions& options) {
  AnswerText text(tokenizer, options);
  std::string whole;
  for (const std::int64_t id : ids) whole += text.push(id);
  return whole + text.finish();
}

}  // namespace internvl
