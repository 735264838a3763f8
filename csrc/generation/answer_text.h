// The text of an answer while it is written: whole characters, without the white space around it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "prompt/detokeniser.h"
#include "prompt/tokenizer.h"

namespace internvl {

// A text without the white space around it, which is what Python's str.strip() takes for such.
std::string_view stripped(std::string_view text);

// The texts of push() and the rest from finish() together are the whole text: stripped, unless the options
// ask for it verbatim. White space is passed on only when text follows it. Not for several threads at once.
class AnswerText {
 public:
  AnswerText(std::shared_ptr<const Tokenizer> tokenizer, const DetokeniserOptions& options)
      : detokeniser_(std::move(tokenizer), options), verbatim_(options.verbatim) {}

  std::string push(std::int64_t id) { return strip(detokeniser_.push(id)); }
  std::string finish() { return strip(detokeniser_.finish()); }

  // A stop string ended the text.
  bool stopped() const { return detokeniser_.stopped().has_value(); }

 private:
  std::string strip(std::string text);

  Detokeniser detokeniser_;
  bool verbatim_;
  bool begun_ = false;
  std::string white_;  // that has no text behind it yet
};

// The text of all ids at once, as AnswerText gives it.
std::string text_of(const std::shared_ptr<const Tokenizer>& tokenizer, std::span<const std::int64_t> ids,
                    const DetokeniserOptions& options);

}  // namespace internvl
