// A bundle's tokenizer: text to ids that a user cannot forge, and ids to bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "prompt/added_tokens.h"
#include "prompt/byte_pair_model.h"
#include "prompt/normaliser.h"
#include "prompt/pre_tokeniser.h"
#include "prompt/token_decoding.h"
#include "runtime/json.h"

namespace internvl {

// Which special tokens stay visible in decoded text: none; <ref> <box> <quad> and their ends; all that are
// tokens in a question too, which are these and those that a fine-tuning added; or all.
enum class KeepTokens : std::uint8_t { none, grounding, task, all };

// A part of a prompt: ordinary text, a special token so many times, or tokens that were generated. Only
// templates and image places make special tokens; user text never does.
struct PromptPart {
  std::string text;  // or the token
  bool control = false;
  std::int64_t count = 1;  // of a control token
  // Generated tokens, in place of text. Its {} lets it be left out of an initialiser, in the eyes of GCC.
  // NOLINTNEXTLINE(readability-redundant-member-init)
  std::vector<std::int64_t> ids{};
};

struct TokenizerOptions {
  // Special tokens that are tokens in ordinary text, beside the grounding tokens.
  std::vector<std::int64_t> task_ids;
  // Decoded text loses the spaces before punctuation.
  bool clean_up_spaces = false;
};

// May be used from several threads.
//
// Ordinary text is encoded with special tokens switched off, so that <|im_end|> or <IMG_CONTEXT> typed by a
// user stays text. The exceptions are the grounding tokens and those of a fine-tuning, which the models are
// prompted with: control_tokens.h has the rule.
class Tokenizer {
 public:
  // Of the content of a tokenizer.json: byte-pair encoding, byte-level or SentencePiece's, that encodes a
  // piece of text as if a special token stood in front of it. Throws BundleError if it is malformed or has a
  // part that is not known, or if `task_ids` would let text become a token that steers the model.
  Tokenizer(std::string json, const TokenizerOptions& options);

  // Ids that the tokenizer knows, added tokens included.
  std::size_t vocab_size() const { return vocab_size_; }
  // Characters of the longest token: a text is at least its length through this many tokens.
  std::size_t longest_token() const { return longest_token_; }
  bool clean_up_spaces() const { return clean_up_spaces_; }
  const TokenDecoding& decoding() const { return decoding_; }

  // The id of a token by its string.
  std::optional<std::int64_t> token_id(std::string_view token) const;
  // The id of a special token that prompts are made with. Throws BundleError if the tokenizer has no such
  // special token, so that user text could turn into it.
  std::int64_t control_id(std::string_view token) const;
  bool is_special(std::int64_t id) const;

  // Encodes a prompt. Neighbouring texts are encoded as one; text on the two sides of a special token is
  // encoded apart, as the models were trained. Bytes that are not UTF-8 become U+FFFD. Throws BundleError as
  // control_id() does.
  std::vector<std::int64_t> encode(std::span<const PromptPart> parts) const;

  // The words within which tokens of a text are merged; added tokens are words too.
  std::vector<std::string> words(std::string_view text) const;

  // The bytes that an id adds to decoded text; none for an id beyond the vocabulary. `strip_space` leaves out
  // a space in front that stands for the beginning of a text.
  std::string token_bytes(std::int64_t id, KeepTokens keep, bool strip_space) const;

 private:
  explicit Tokenizer(const json::Value& document, const TokenizerOptions& options);

  void read_added_tokens(const json::Value& document);
  void allow_in_text(const TokenizerOptions& options);
  const AddedToken& control(std::string_view token) const;
  // Calls word() for what is merged, and token() for the tokens in a text, in their order.
  void cut(std::string_view text, FunctionRef<void(std::string_view)> word,
           FunctionRef<void(std::int64_t)> token) const;

  Normaliser normaliser_;
  PreTokeniser pre_tokeniser_;
  BytePairModel model_;
  TokenDecoding decoding_;
  std::unordered_map<std::int64_t, AddedToken> added_;
  std::unordered_map<std::string_view, std::int64_t> added_ids_;
  std::unordered_map<std::int64_t, KeepTokens> visible_from_;  // special tokens by what keeps them at least
  TokenCutter as_written_;
  TokenCutter normalised_;
  bool clean_up_spaces_;
  std::size_t vocab_size_ = 0;
  std::size_t longest_token_ = 0;
};

}  // namespace internvl
