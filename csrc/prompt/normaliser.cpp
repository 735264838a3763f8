#include "prompt/normaliser.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "prompt/unicode.h"
#include "prompt/unknown_component.h"

namespace internvl {
namespace {

constexpr std::string_view kSpaceMark = "\u2581";
constexpr std::string_view kUnlessBegin = R"(\A(?!(?:)";
constexpr std::string_view kUnlessEnd = R"()\z))";

// The texts of `a|b|c`, where characters with a meaning are escaped; none if there is anything else in it.
std::optional<std::vector<std::string>> alternatives(std::string_view pattern) {
  constexpr std::string_view kMeta = "\\.^$*+?{}[]()";
  std::vector<std::string> texts(1);
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    char c = pattern[i];
    if (c == '|') {
      texts.emplace_back();
      continue;
    }
    if (c == '\\') {
      if (++i == pattern.size()) return std::nullopt;
      c = pattern[i];
      const bool letter = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
      if (letter) return std::nullopt;
    } else if (kMeta.find(c) != std::string_view::npos) {
      return std::nullopt;
    }
    texts.back().push_back(c);
  }
  return texts;
}

std::string with_single_spaces(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    if (c != ' ' || out.empty() || out.back() != ' ') out.push_back(c);
  }
  return out;
}

std::string_view without_ends(std::string_view text) {
  if (text.starts_with(' ')) text.remove_prefix(1);
  for (;;) {
    if (text.ends_with(' ')) {
      text.remove_suffix(1);
    } else if (text.ends_with(kSpaceMark)) {
      text.remove_suffix(kSpaceMark.size());
    } else {
      return text;
    }
  }
}

template <class... Cases>
struct Overloaded : Cases... {
  using Cases::operator()...;
};

}  // namespace

std::string replaced(std::string_view text, std::string_view old_text, std::string_view new_text) {
  std::string out;
  out.reserve(text.size());
  std::size_t done = 0;
  for (std::size_t at = text.find(old_text); at != std::string_view::npos; at = text.find(old_text, done)) {
    out += text.substr(done, at - done);
    out += new_text;
    done = at + old_text.size();
  }
  out += text.substr(done);
  return out;
}

Normaliser::Normaliser(const json::Value& document) { read(document); }

void Normaliser::read(const json::Value& document) {
  const std::string_view kind = document.find_string("type").value_or("");
  if (kind == "Sequence") {
    if (const auto parts = document.find("normalizers"); parts && parts->is_array()) {
      parts->each_item([&](const json::Value& part) { read(part); });
      return;
    }
  }
  if (kind == "NFC") {
    steps_.emplace_back(Compose{});
    return;
  }
  if (kind == "Prepend") {
    if (const auto text = document.find_string("prepend")) {
      steps_.emplace_back(Prepend{std::string(*text)});
      return;
    }
  }
  if (kind == "Replace") {
    const auto pattern = document.find("pattern");
    const auto new_text = document.find_string("content");
    if (pattern && new_text) {
      if (const std::string_view old_text = pattern->find_string("String").value_or(""); !old_text.empty()) {
        steps_.emplace_back(Replace{std::string(old_text), std::string(*new_text)});
        return;
      }
      if (auto step = replacement(pattern->find_string("Regex").value_or(""), *new_text)) {
        steps_.push_back(std::move(*step));
        return;
      }
    }
  }
  throw_unknown_component("normalizer", document);
}

std::optional<Normaliser::Step> Normaliser::replacement(std::string_view pattern, std::string_view content) {
  if (pattern == " {2,}" && content == " ") return JoinSpaces{};
  if (pattern == "\\A |[ \u2581]+\\z" && content.empty()) return StripEnds{};
  if (pattern == " \\z" && content.empty()) return StripLastSpace{};
  if (pattern.starts_with(kUnlessBegin) && pattern.ends_with(kUnlessEnd)) {
    pattern.remove_prefix(kUnlessBegin.size());
    pattern.remove_suffix(kUnlessEnd.size());
    if (auto kept = alternatives(pattern)) return PrependUnless{std::string(content), std::move(*kept)};
  }
  return std::nullopt;
}

std::string Normaliser::apply(const Step& step, std::string text) {
  return std::visit(Overloaded{
                        [&](const Compose&) { return unicode::composed(text); },
                        [&](const Prepend& s) { return text.empty() ? text : s.text + text; },
                        [&](const Replace& s) { return replaced(text, s.old_text, s.new_text); },
                        [&](const JoinSpaces&) { return with_single_spaces(text); },
                        [&](const StripEnds&) { return std::string(without_ends(text)); },
                        [&](const StripLastSpace&) {
                          if (text.ends_with(' ')) text.pop_back();
                          return text;
                        },
                        [&](const PrependUnless& s) {
                          const bool kept = std::ranges::find(s.kept, text) != s.kept.end();
                          return text.empty() || kept ? text : s.text + text;
                        },
                    },
                    step);
}

std::string Normaliser::normalise(std::string_view text) const {
  std::string out(text);
  for (const Step& step : steps_) out = apply(step, std::move(out));
  return out;
}

std::optional<std::string_view> Normaliser::space_mark() const {
  const Replace* const first = steps_.empty() ? nullptr : std::get_if<Replace>(&steps_.front());
  if (first == nullptr || first->new_text != " ") return std::nullopt;
  return first->old_text;
}

}  // namespace internvl
