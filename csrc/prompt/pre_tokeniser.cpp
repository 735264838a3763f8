#include "prompt/pre_tokeniser.h"

#include <cstddef>
#include <utility>

#include "prompt/normaliser.h"
#include "prompt/unicode.h"
#include "prompt/unknown_component.h"
#include "runtime/utf8.h"

namespace internvl {
namespace {

bool flag(const json::Value& document, std::string_view name, bool otherwise) {
  const auto value = document.find(name);
  return value ? value->boolean().value_or(otherwise) : otherwise;
}

std::string_view string(const json::Value& document, std::string_view name) {
  return document.find_string(name).value_or("");
}

// Digits together or one by one, and what is between them.
std::size_t digits_end(std::string_view text, std::size_t at, bool individual) {
  const auto is_number = [&](std::size_t i) {
    return (unicode::classes(utf8::decode(text, i).value) & unicode::kNumeric) != 0;
  };
  const bool number = is_number(at);
  do {
    at += utf8::length_of(text[at]);
  } while (at < text.size() && is_number(at) == number && !(number && individual));
  return at;
}

template <class WordEnd, class Take>
void cut_by(std::string_view text, const WordEnd& word_end, const Take& take) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = word_end(text, at);
    take(text.substr(at, end - at), at == 0);
    at = end;
  }
}

template <class... Cases>
struct Overloaded : Cases... {
  using Cases::operator()...;
};

}  // namespace

PreTokeniser::PreTokeniser(const json::Value& document) { read(document); }

void PreTokeniser::read(const json::Value& document) {
  const std::string_view kind = string(document, "type");
  if (kind == "Sequence") {
    if (const auto parts = document.find("pretokenizers"); parts && parts->is_array()) {
      parts->each_item([&](const json::Value& part) { read(part); });
      return;
    }
  }
  // What follows ByteLevel would cut the characters that stand for bytes.
  if (!byte_level_) {
    if (kind == "Split" && read_split(document)) return;
    if (kind == "Metaspace" && read_metaspace(document)) return;
    if (kind == "Digits") {
      steps_.emplace_back(Digits{flag(document, "individual_digits", false)});
      return;
    }
    if (kind == "ByteLevel") {
      steps_.emplace_back(Bytes{flag(document, "add_prefix_space", true), flag(document, "use_regex", true)});
      byte_level_ = true;
      return;
    }
  }
  throw_unknown_component("pre_tokenizer", document);
}

bool PreTokeniser::read_split(const json::Value& document) {
  const auto pattern = document.find("pattern");
  const std::string_view regex = pattern ? string(*pattern, "Regex") : "";
  // The known patterns match everything, so that what they match and the rest of it are the same words.
  const bool invert = flag(document, "invert", false);
  if (string(document, "behavior") != (invert ? "Removed" : "Isolated")) return false;
  if (const WordEnd known = known_word_pattern(regex)) {
    steps_.emplace_back(Pattern{known});
    return true;
  }
  ClassSequences sequences;
  if (!sequences.read(regex)) return false;
  steps_.emplace_back(std::move(sequences));
  return true;
}

bool PreTokeniser::read_metaspace(const json::Value& document) {
  const std::string_view mark = string(document, "replacement");
  const std::string_view scheme = string(document, "prepend_scheme");
  if (mark.empty()) return false;
  Metaspace step = {std::string(mark), Metaspace::Prepend::always, flag(document, "split", true)};
  if (scheme == "first") {
    step.prepend = Metaspace::Prepend::first;
  } else if (scheme == "never") {
    step.prepend = Metaspace::Prepend::never;
  } else if (!scheme.empty() && scheme != "always") {
    return false;
  }
  steps_.emplace_back(std::move(step));
  return true;
}

void PreTokeniser::cut(std::string_view text, bool first, FunctionRef<void(std::string_view)> take) const {
  cut_from(0, text, first, take);
}

void PreTokeniser::cut_from(std::size_t step, std::string_view text, bool first,
                            FunctionRef<void(std::string_view)> take) const {
  if (text.empty()) return;
  if (step == steps_.size()) return take(text);
  const auto next = [&](std::string_view word, bool front) {
    cut_from(step + 1, word, first && front, take);
  };
  std::visit(Overloaded{
                 [&](const Pattern& s) { cut_by(text, s.word_end, next); },
                 [&](const ClassSequences& s) {
                   cut_by(text, [&](std::string_view t, std::size_t at) { return s.word_end(t, at); }, next);
                 },
                 [&](const Bytes& s) {
                   std::string prefixed;
                   std::string_view words = text;
                   if (s.add_prefix_space && !text.starts_with(' ')) {
                     prefixed = " ";
                     prefixed += text;
                     words = prefixed;
                   }
                   if (s.use_regex) return cut_by(words, gpt2_word_end, next);
                   next(words, true);
                 },
                 [&](const Metaspace& s) {
                   std::string marked = replaced(text, " ", s.mark);
                   const bool wanted = s.prepend == Metaspace::Prepend::always ||
                                       (s.prepend == Metaspace::Prepend::first && first);
                   if (wanted && !marked.starts_with(s.mark)) marked.insert(0, s.mark);
                   if (!s.split) return next(marked, true);
                   // Every mark begins a word.
                   cut_by(
                       marked,
                       [&](std::string_view t, std::size_t at) {
                         const std::size_t end = t.find(s.mark, at + 1);
                         return end == std::string_view::npos ? t.size() : end;
                       },
                       next);
                 },
                 [&](const Digits& s) {
                   cut_by(
                       text,
                       [&](std::string_view t, std::size_t at) { return digits_end(t, at, s.individual); },
                       next);
                 },
             },
             steps_[step]);
}

}  // namespace internvl
