#include "prompt/detokeniser.h"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace internvl {

Detokeniser::Detokeniser(std::shared_ptr<const Tokenizer> tokenizer, const DetokeniserOptions& options)
    : tokenizer_(std::move(tokenizer)),
      keep_(options.keep),
      artificial_spaces_(tokenizer_->decoding().artificial_spaces()),
      characters_(tokenizer_->decoding().byte_fallback() ? utf8::Stray::per_byte
                                                         : utf8::Stray::per_character) {
  if (tokenizer_->clean_up_spaces() && !options.verbatim) cleaner_.emplace();
  for (const std::string& text : options.stop) {
    if (text.empty()) continue;
    Stop stop = {text, std::vector<std::size_t>(text.size()), 0};
    for (std::size_t i = 1, length = 0; i < text.size(); ++i) {
      while (length > 0 && text[i] != text[length]) length = stop.shorter[length - 1];
      if (text[i] == text[length]) ++length;
      stop.shorter[i] = length;
    }
    stops_.push_back(std::move(stop));
  }
}

std::string Detokeniser::push(std::int64_t id) {
  if (stopped_) return {};
  std::string bytes = tokenizer_->token_bytes(id, keep_, false);
  if (artificial_spaces_ > 0 && !bytes.empty()) bytes = at_start(id, bytes);
  std::string text;
  characters_.push(bytes, text);
  if (cleaner_) text = cleaner_->push(std::move(text));
  return release(text, false);
}

std::string Detokeniser::finish() {
  if (stopped_) return {};
  std::string text;
  characters_.finish(text);
  if (cleaner_) {
    text = cleaner_->push(std::move(text));
    text += cleaner_->finish();
  }
  return release(text, true);
}

// A token without its artificial space, while nothing but such spaces came before it.
std::string Detokeniser::at_start(std::int64_t id, const std::string& bytes) {
  std::string stripped = tokenizer_->token_bytes(id, keep_, true);
  if (stripped != bytes) --artificial_spaces_;
  if (!stripped.empty()) artificial_spaces_ = 0;
  return stripped;
}

std::string Detokeniser::release(const std::string& text, bool final) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const Stop* ended = nullptr;
    for (Stop& stop : stops_) {
      while (stop.matched > 0 && text[i] != stop.text[stop.matched])
        stop.matched = stop.shorter[stop.matched - 1];
      if (text[i] == stop.text[stop.matched]) ++stop.matched;
      // Of several that end here, the one that began first.
      if (stop.matched == stop.text.size() && (ended == nullptr || stop.text.size() > ended->text.size())) {
        ended = &stop;
      }
    }
    if (ended != nullptr) {
      held_.append(text, 0, i + 1);
      held_.resize(held_.size() - ended->text.size());
      stopped_ = ended->text;
      return std::exchange(held_, {});
    }
  }
  held_ += text;
  if (final) {
    for (Stop& stop : stops_) stop.matched = 0;
    return std::exchange(held_, {});
  }
  std::size_t undecided = 0;
  for (const Stop& stop : stops_) undecided = std::max(undecided, stop.matched);
  std::string certain = held_.substr(0, held_.size() - undecided);
  held_.erase(0, certain.size());
  return certain;
}

}  // namespace internvl
