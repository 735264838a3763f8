// The tokens of a model by id and by their text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/json.h"

namespace internvl {

// Ids may have gaps. In a byte-level vocabulary a token's text is the bytes that it stands for; one that
// stands for none keeps its name as its text, and no text becomes it.
class Vocabulary {
 public:
  // Of the object "vocab" of a tokenizer.json. Throws BundleError where it is malformed.
  Vocabulary(const json::Value& document, bool byte_level);

  std::size_t size() const { return size_; }
  // One more than the largest id.
  std::int64_t end() const { return static_cast<std::int64_t>(begins_.size()) - 1; }
  // Characters of the longest token's name.
  std::size_t longest() const { return longest_; }

  bool contains(std::int64_t id) const;
  // The text of a token; none has the empty one.
  std::string_view text(std::int64_t id) const;

  // The id of the token with a text that text can become, or -1.
  std::int32_t find(std::string_view text) const;
  // The id of the token with a name, or -1.
  std::int32_t find_name(std::string_view name) const;

 private:
  // Open addressing: slots of ids, -1 where free.
  void index();

  bool byte_level_;
  std::size_t size_ = 0;
  std::size_t longest_ = 0;
  std::string texts_;
  std::vector<std::uint32_t> begins_;
  std::vector<std::int32_t> slots_;
  std::vector<std::int32_t> names_;  // tokens of a byte-level vocabulary that stand for no bytes
};

}  // namespace internvl
