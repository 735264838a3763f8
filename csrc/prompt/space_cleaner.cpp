#include "prompt/space_cleaner.h"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace internvl {

SpaceCleaner::SpaceCleaner() {
  constexpr std::pair<std::string_view, std::string_view> kReplacements[] = {
      {" .", "."},     {" ?", "?"},   {" !", "!"},   {" ,", ","},     {" ' ", "'"},
      {" n't", "n't"}, {" 'm", "'m"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
  };
  for (const auto& [old_text, new_text] : kReplacements) steps_.push_back({old_text, new_text, {}});
}

std::string SpaceCleaner::Step::push(std::string_view text) {
  if (text.empty()) return {};
  const std::string all = std::exchange(held, {}) + std::string(text);
  std::string out;
  std::size_t done = 0;
  for (std::size_t at = all.find(old_text); at != std::string::npos; at = all.find(old_text, done)) {
    out.append(all, done, at - done);
    out += new_text;
    done = at + old_text.size();
  }
  const std::string_view rest = std::string_view(all).substr(done);
  // What may be the beginning of the next match waits for what follows.
  std::size_t waiting = std::min(old_text.size() - 1, rest.size());
  while (!rest.ends_with(old_text.substr(0, waiting))) --waiting;
  out += rest.substr(0, rest.size() - waiting);
  held = rest.substr(rest.size() - waiting);
  return out;
}

std::string SpaceCleaner::Step::finish() { return std::exchange(held, {}); }

std::string SpaceCleaner::push(std::string text) {
  for (Step& step : steps_) text = step.push(text);
  return text;
}

std::string SpaceCleaner::finish() {
  std::string text;
  for (Step& step : steps_) {
    text = step.push(text);
    text += step.finish();
  }
  return text;
}

}  // namespace internvl
