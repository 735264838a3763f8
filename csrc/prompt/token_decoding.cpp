#include "prompt/token_decoding.h"

#include <charconv>

#include "prompt/normaliser.h"
#include "prompt/unknown_component.h"
#include "runtime/error.h"

namespace internvl {

TokenDecoding::TokenDecoding(const json::Value& document) {
  if (document.is_null()) throw BundleError("the tokenizer has no decoder.");
  read(document);
}

void TokenDecoding::read(const json::Value& document) {
  const std::string_view kind = document.find_string("type").value_or("");
  if (kind == "Sequence") {
    if (const auto parts = document.find("decoders"); parts && parts->is_array()) {
      parts->each_item([&](const json::Value& part) { read(part); });
      return;
    }
  }
  if (kind == "ByteLevel") {
    byte_level_ = true;
    return;
  }
  if (kind == "ByteFallback") {
    byte_fallback_ = true;
    return;
  }
  if (kind == "Fuse") return;
  if (kind == "Replace") {
    const auto pattern = document.find("pattern");
    const std::string_view old_text = pattern ? pattern->find_string("String").value_or("") : "";
    const auto new_text = document.find_string("content");
    if (!old_text.empty() && new_text) {
      replacements_.emplace_back(old_text, *new_text);
      return;
    }
  }
  if (kind == "Strip" && document.find_string("content") == " ") {
    const auto start = document.find("start");
    const auto stop = document.find("stop");
    const std::int64_t spaces = start ? start->integer().value_or(-1) : -1;
    if (spaces >= 0 && stop && stop->integer() == 0) {
      artificial_spaces_ = spaces;
      return;
    }
  }
  if (kind == "Metaspace") {
    if (const std::string_view mark = document.find_string("replacement").value_or(""); !mark.empty()) {
      replacements_.emplace_back(mark, " ");
      artificial_spaces_ = document.find_string("prepend_scheme") == "never" ? 0 : 1;
      return;
    }
  }
  throw_unknown_component("decoder", document);
}

std::string TokenDecoding::bytes(std::string_view token, bool strip_space) const {
  if (byte_level_) return std::string(token);
  if (byte_fallback_ && token.size() == 6 && token.starts_with("<0x") && token.ends_with('>')) {
    std::uint8_t byte = 0;
    const char* const end = token.data() + 5;
    const auto [read, error] = std::from_chars(token.data() + 3, end, byte, 16);
    if (error == std::errc() && read == end) return {static_cast<char>(byte)};
  }
  std::string text(token);
  for (const auto& [old_text, new_text] : replacements_) text = replaced(text, old_text, new_text);
  if (strip_space && text.starts_with(' ')) text.erase(0, 1);
  return text;
}

}  // namespace internvl
