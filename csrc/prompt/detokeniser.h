// Ids to text while they are generated: whole characters only, and nothing of a stop string.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "prompt/space_cleaner.h"
#include "prompt/tokenizer.h"
#include "runtime/utf8.h"

namespace internvl {

struct DetokeniserOptions {
  // Which special tokens stay visible.
  KeepTokens keep = KeepTokens::none;
  // The text ends before the one of these strings that is complete first; empty ones are ignored.
  std::vector<std::string> stop;
  // Spaces before punctuation stay whatever the tokenizer's settings are: the text was written to a form,
  // which they are part of.
  bool verbatim = false;
};

// Turns one sequence of ids into pieces of text.
//
// The pieces of push() and the rest from finish() together are the text that decoding all ids at once gives.
// The cost of a token does not grow with the text before it. Not for several threads at once.
class Detokeniser {
 public:
  Detokeniser(std::shared_ptr<const Tokenizer> tokenizer, const DetokeniserOptions& options);

  // Takes the next id and returns the text that is certain by now, often none.
  std::string push(std::int64_t id);
  // The rest of the text; a character that was never completed is U+FFFD.
  std::string finish();

  // The stop string that ended the text.
  const std::optional<std::string>& stopped() const { return stopped_; }

 private:
  // A stop string, and how much of its beginning the text ends with.
  struct Stop {
    std::string text;
    std::vector<std::size_t>
        shorter;  // [i]: of the first i + 1 bytes, how many they end with that also begin it
    std::size_t matched = 0;
  };

  std::string at_start(std::int64_t id, const std::string& bytes);
  std::string release(const std::string& text, bool final);

  std::shared_ptr<const Tokenizer> tokenizer_;
  KeepTokens keep_;
  std::int64_t artificial_spaces_;
  utf8::Decoder characters_;
  std::optional<SpaceCleaner> cleaner_;
  std::vector<Stop> stops_;
  std::string held_;
  std::optional<std::string> stopped_;
};

}  // namespace internvl
