#include "prompt/word_patterns.h"

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>

#include "prompt/unicode.h"
#include "runtime/utf8.h"

namespace internvl {
namespace {

using unicode::kLetter;
using unicode::kNumber;
using unicode::kSpace;

std::uint8_t class_at(std::string_view text, std::size_t at) {
  return static_cast<std::uint8_t>(unicode::classes(utf8::decode(text, at).value) &
                                   (kLetter | kNumber | kSpace));
}

// The end of a run of characters, all of one class, or of none where `wanted` is 0.
std::size_t run_end(std::string_view text, std::size_t at, std::uint8_t wanted) {
  while (at < text.size()) {
    const auto [c, length] = utf8::decode(text, at);
    const int classes = unicode::classes(c) & (kLetter | kNumber | kSpace);
    if (wanted == 0 ? classes != 0 : (classes & wanted) == 0) break;
    at += length;
  }
  return at;
}

bool is_newline(char c) { return c == '\r' || c == '\n'; }

// The end of 's 't 're 've 'm 'll 'd behind an apostrophe, or `at`.
template <bool kAnyCase>
std::size_t contraction_end(std::string_view text, std::size_t at) {
  const auto letter = [&](std::size_t i) {
    const char c = at + i < text.size() ? text[at + i] : '\0';
    return kAnyCase && c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
  };
  const char first = letter(1);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return at + 2;
  const char second = letter(2);
  if ((first == 'r' || first == 'v') && second == 'e') return at + 3;
  if (first == 'l' && second == 'l') return at + 3;
  // The long s is an s in another case.
  constexpr std::string_view kLongS = "\u017F";
  if (kAnyCase && text.substr(at + 1).starts_with(kLongS)) return at + 1 + kLongS.size();
  return at;
}

// White space: all of it up to its last newline where `kNewlines`; else all of it at the end of the text, and
// all but its last character in front of a word.
template <bool kNewlines>
std::size_t space_end(std::string_view text, std::size_t at) {
  std::size_t last = at;     // where the last character begins
  std::size_t newline = at;  // behind the last newline
  std::size_t end = at;
  while (end < text.size()) {
    const auto [c, length] = utf8::decode(text, end);
    if ((unicode::classes(c) & kSpace) == 0) break;
    last = end;
    end += length;
    if (c == '\r' || c == '\n') newline = end;
  }
  if (kNewlines && newline > at) return newline;
  return end == text.size() || last == at ? end : last;
}

// Qwen 2 to 3 and Llama 3, which take up to `kDigits` digits together.
template <int kDigits>
std::size_t qwen_word_end(std::string_view text, std::size_t at) {
  if (text[at] == '\'') {
    if (const std::size_t end = contraction_end<true>(text, at); end > at) return end;
  }
  const std::uint8_t first = class_at(text, at);
  const std::size_t second = at + utf8::length_of(text[at]);
  if (first & kLetter) return run_end(text, second, kLetter);
  if (first & kNumber) {
    std::size_t end = second;
    for (int i = 1; i < kDigits && end < text.size() && (class_at(text, end) & kNumber); ++i) {
      end += utf8::length_of(text[end]);
    }
    return end;
  }
  if (!is_newline(text[at]) && second < text.size() && (class_at(text, second) & kLetter)) {
    return run_end(text, second, kLetter);
  }
  const bool space = text[at] == ' ' && second < text.size() && class_at(text, second) == 0;
  if (first == 0 || space) {
    std::size_t end = run_end(text, second, 0);
    while (end < text.size() && is_newline(text[end])) ++end;
    return end;
  }
  return space_end<true>(text, at);
}

constexpr std::string_view kQwen =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt2Grouped =
    R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Reads one character of a class: itself, or \x{...}.
std::optional<char32_t> character(std::string_view& regex) {
  constexpr std::string_view kHexadecimal = "\\x{";
  if (regex.starts_with(kHexadecimal)) {
    regex.remove_prefix(kHexadecimal.size());
    std::uint32_t value = 0;
    const auto [end, error] = std::from_chars(regex.data(), regex.data() + regex.size(), value, 16);
    if (error != std::errc() || end == regex.data() + regex.size() || *end != '}') return std::nullopt;
    regex.remove_prefix(static_cast<std::size_t>(end - regex.data()) + 1);
    return value;
  }
  constexpr std::string_view kMeta = "\\.^$*+?{}[]()|-&";
  if (regex.empty() || kMeta.find(regex.front()) != std::string_view::npos) return std::nullopt;
  const auto [c, length] = utf8::decode(regex, 0);
  regex.remove_prefix(length);
  return c;
}

bool take(std::string_view& regex, std::string_view what) {
  if (!regex.starts_with(what)) return false;
  regex.remove_prefix(what.size());
  return true;
}

}  // namespace

std::size_t gpt2_word_end(std::string_view text, std::size_t at) {
  if (text[at] == '\'') {
    if (const std::size_t end = contraction_end<false>(text, at); end > at) return end;
  }
  std::size_t begin = at;
  if (text[at] == ' ' && at + 1 < text.size() && (class_at(text, at + 1) & kSpace) == 0) ++begin;
  const std::uint8_t first = class_at(text, begin);
  if (first & kLetter) return run_end(text, begin, kLetter);
  if (first & kNumber) return run_end(text, begin, kNumber);
  if (first == 0) return run_end(text, begin, 0);
  return space_end<false>(text, at);
}

WordEnd known_word_pattern(std::string_view regex) {
  if (regex == kQwen) return qwen_word_end<1>;
  if (regex == kLlama3) return qwen_word_end<3>;
  if (regex == kGpt2 || regex == kGpt2Grouped) return gpt2_word_end;
  return nullptr;
}

bool ClassSequences::read(std::string_view regex) {
  constexpr std::string_view kAnything = "[\\s\\S]";
  std::vector<std::vector<Range>> alternatives(1);
  while (regex != kAnything) {
    if (take(regex, "|")) {
      if (alternatives.back().empty()) return false;
      alternatives.emplace_back();
      continue;
    }
    const bool range = take(regex, "[");
    const auto first = character(regex);
    if (!first) return false;
    auto last = first;
    if (range) {
      if (!take(regex, "-")) return false;
      last = character(regex);
      if (!last || !take(regex, "]")) return false;
    }
    alternatives.back().push_back({*first, *last});
  }
  if (!alternatives.back().empty()) return false;
  alternatives.pop_back();
  alternatives_ = std::move(alternatives);
  return true;
}

std::size_t ClassSequences::word_end(std::string_view text, std::size_t at) const {
  for (const auto& alternative : alternatives_) {
    std::size_t end = at;
    bool matches = true;
    for (const Range& range : alternative) {
      if (end == text.size()) {
        matches = false;
        break;
      }
      const auto [c, length] = utf8::decode(text, end);
      matches = c >= range.first && c <= range.last;
      if (!matches) break;
      end += length;
    }
    if (matches) return end;
  }
  return at + utf8::length_of(text[at]);
}

}  // namespace internvl
