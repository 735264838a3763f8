// What happens to text before it is cut into words.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "runtime/json.h"

namespace internvl {

// The normaliser of a tokenizer.json: NFC, Prepend and Replace, alone or in a sequence. Of regular
// expressions, those are known that stand for SentencePiece's rules for spaces.
class Normaliser {
 public:
  // Does nothing.
  Normaliser() = default;
  // Throws BundleError that names what is not known.
  explicit Normaliser(const json::Value& document);

  bool empty() const { return steps_.empty(); }
  std::string normalise(std::string_view text) const;

  // What becomes a space before anything else happens: tokens that eat white space eat it too.
  std::optional<std::string_view> space_mark() const;

 private:
  struct Compose {};
  struct Prepend {
    std::string text;
  };
  struct Replace {
    std::string old_text;
    std::string new_text;
  };
  struct JoinSpaces {};      // runs of spaces become one
  struct StripEnds {};       // one space in front, and all spaces and marks of spaces at the end
  struct StripLastSpace {};  // one space at the end
  struct PrependUnless {     // unless the text is one of these
    std::string text;
    std::vector<std::string> kept;
  };
  using Step = std::variant<Compose, Prepend, Replace, JoinSpaces, StripEnds, StripLastSpace, PrependUnless>;

  void read(const json::Value& document);
  static std::optional<Step> replacement(std::string_view pattern, std::string_view content);
  static std::string apply(const Step& step, std::string text);

  std::vector<Step> steps_;
};

// A text with every `old_text` replaced, from the left. `old_text` is not empty.
std::string replaced(std::string_view text, std::string_view old_text, std::string_view new_text);

}  // namespace internvl
