// An answer that is one of several texts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "generation/constraint.h"
#include "generation/token_table.h"
#include "prompt/tokenizer.h"

namespace internvl {

// As long as more than one text can still come of it, the model writes it in any tokens; where one is left,
// the rest of it comes in the tokens that the tokenizer makes of it, and takes no step.
class Choices : public Constraint {
 public:
  // `stop_ids` end an answer that may also go on, such as "yes" where "yes, please" is another choice. Throws
  // PromptError if there are no tokens to write one of the texts with.
  Choices(std::shared_ptr<const Tokenizer> tokenizer, std::shared_ptr<const TokenTable> table,
          std::span<const std::string> texts, std::vector<std::int64_t> stop_ids);

  std::span<const std::uint8_t> allowed() override;
  std::optional<std::int64_t> forced() override;
  void take(std::int64_t token) override;
  bool complete() override { return ended_; }

 private:
  // What is left of a text, and from which of its bytes on there are tokens to its end.
  struct Text {
    std::string bytes;
    std::size_t written = 0;
    std::vector<bool> writable;  // [bytes + 1]

    std::string_view left() const { return std::string_view(bytes).substr(written); }
  };

  void find_writable(Text& text) const;
  void find_allowed();
  void find_forced();

  std::shared_ptr<const Tokenizer> tokenizer_;
  std::shared_ptr<const TokenTable> table_;
  std::vector<Text> texts_;  // that can still come of the answer
  std::vector<std::int64_t> stop_ids_;
  std::vector<std::int64_t> forced_;  // the next one last
  std::vector<std::int64_t> allowed_ids_;
  std::vector<std::uint8_t> allowed_;
  bool encodes_alone_;  // a text becomes tokens that write that text, wherever it stands
  bool ended_ = false;
};

}  // namespace internvl
