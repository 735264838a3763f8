// How text is cut into the words within which tokens are merged.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "prompt/word_patterns.h"
#include "runtime/function_ref.h"
#include "runtime/json.h"

namespace internvl {

// The pre-tokenizer of a tokenizer.json: Split by a known pattern, ByteLevel, Metaspace and Digits, alone or
// in a sequence.
class PreTokeniser {
 public:
  // Cuts nothing.
  PreTokeniser() = default;
  // Throws BundleError that names what is not known.
  explicit PreTokeniser(const json::Value& document);

  // Whether the words are bytes to the vocabulary, not characters. They come as text all the same.
  bool byte_level() const { return byte_level_; }

  // Calls take() with every word, in their order, never with an empty one. `first` says that nothing stands
  // in front of the text.
  void cut(std::string_view text, bool first, FunctionRef<void(std::string_view)> take) const;

 private:
  struct Pattern {
    WordEnd word_end;
  };
  struct Bytes {
    bool add_prefix_space;
    bool use_regex;
  };
  struct Metaspace {
    enum class Prepend { always, first, never };
    std::string mark;
    Prepend prepend;
    bool split;
  };
  struct Digits {
    bool individual;
  };
  using Step = std::variant<Pattern, ClassSequences, Bytes, Metaspace, Digits>;

  void read(const json::Value& document);
  bool read_split(const json::Value& document);
  bool read_metaspace(const json::Value& document);
  void cut_from(std::size_t step, std::string_view text, bool first,
                FunctionRef<void(std::string_view)> take) const;

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

}  // namespace internvl
