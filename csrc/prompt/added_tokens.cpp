#include "prompt/added_tokens.h"

#include <algorithm>

#include "prompt/unicode.h"
#include "runtime/utf8.h"

namespace internvl {
namespace {

bool is(std::string_view text, std::size_t at, unicode::Class wanted) {
  return (unicode::classes(utf8::decode(text, at).value) & wanted) != 0;
}

}  // namespace

std::size_t end_of_leading_space(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size() && is(text, at, unicode::kSpace)) at += utf8::length_of(text[at]);
  return at;
}

std::size_t begin_of_trailing_space(std::string_view text) {
  std::size_t at = text.size();
  while (at > 0) {
    const std::size_t previous = utf8::before(text, at);
    if (!is(text, previous, unicode::kSpace)) break;
    at = previous;
  }
  return at;
}

void TokenCutter::add(std::string_view pattern, const AddedToken& token) {
  if (pattern.empty()) return;
  std::uint32_t node = 0;
  for (const char c : pattern) {
    auto& next = nodes_[node].next;
    const auto found = std::ranges::find(next, c, &std::pair<char, std::uint32_t>::first);
    if (found != next.end()) {
      node = found->second;
      continue;
    }
    const auto made = static_cast<std::uint32_t>(nodes_.size());
    next.emplace_back(c, made);
    nodes_.emplace_back();
    node = made;
  }
  if (nodes_[node].rule >= 0) return;
  nodes_[node].rule = static_cast<std::int32_t>(rules_.size());
  rules_.push_back({token.id, token.single_word, token.lstrip, token.rstrip});
  begins_[static_cast<unsigned char>(pattern.front())] = true;
}

TokenCutter::Match TokenCutter::match_at(std::string_view text, std::size_t at) const {
  Match longest = {nullptr, at};
  std::uint32_t node = 0;
  while (at < text.size()) {
    const auto& next = nodes_[node].next;
    const auto found = std::ranges::find(next, text[at], &std::pair<char, std::uint32_t>::first);
    if (found == next.end()) break;
    node = found->second;
    ++at;
    if (const std::int32_t rule = nodes_[node].rule; rule >= 0)
      longest = {&rules_[static_cast<std::size_t>(rule)], at};
  }
  return longest;
}

void TokenCutter::cut(std::string_view text, FunctionRef<void(std::string_view)> between,
                      FunctionRef<void(std::int64_t)> token) const {
  std::size_t done = 0;
  for (std::size_t at = 0; !rules_.empty() && at < text.size();) {
    if (!begins_[static_cast<unsigned char>(text[at])]) {
      ++at;
      continue;
    }
    const Match match = match_at(text, at);
    if (match.rule == nullptr) {
      ++at;
      continue;
    }
    std::size_t begin = at;
    std::size_t end = match.end;
    at = end;
    if (match.rule->single_word) {
      const bool word_before = begin > 0 && is(text, utf8::before(text, begin), unicode::kWord);
      if (word_before || (end < text.size() && is(text, end, unicode::kWord))) continue;
    }
    if (match.rule->lstrip) {
      begin = begin > done ? done + begin_of_trailing_space(text.substr(done, begin - done)) : done;
    }
    if (match.rule->rstrip) end += end_of_leading_space(text.substr(end));
    if (begin >= end) continue;  // white space that the token in front has eaten
    if (done < begin) between(text.substr(done, begin - done));
    token(match.rule->id);
    done = end;
  }
  if (done < text.size()) between(text.substr(done));
}

}  // namespace internvl
