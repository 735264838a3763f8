#include "generation/choices.h"

#include <algorithm>
#include <utility>

#include "runtime/error.h"
#include "runtime/quoted.h"

namespace internvl {
namespace {

// Texts that are tokenised at every step, to find out what they have in common.
constexpr std::size_t most_compared = 256;

std::vector<std::int64_t> encoded(const Tokenizer& tokenizer, std::string_view text) {
  const PromptPart part{std::string(text)};
  return tokenizer.encode({&part, 1});
}

std::string written_by(const Tokenizer& tokenizer, std::span<const std::int64_t> ids) {
  std::string bytes;
  for (const std::int64_t id : ids) bytes += tokenizer.token_bytes(id, KeepTokens::all, false);
  return bytes;
}

}  // namespace

Choices::Choices(std::shared_ptr<const Tokenizer> tokenizer, std::shared_ptr<const TokenTable> table,
                 std::span<const std::string> texts, std::vector<std::int64_t> stop_ids)
    : tokenizer_(std::move(tokenizer)),
      table_(std::move(table)),
      stop_ids_(std::move(stop_ids)),
      allowed_((table_->vocab_size() + 7) / 8),
      encodes_alone_(written_by(*tokenizer_, encoded(*tokenizer_, "a")) == "a") {
  // A SentencePiece model may begin its answer with the space that stands for the beginning of a text, and
  // that is no part of the text.
  const bool space = tokenizer_->decoding().artificial_spaces() > 0;
  for (const std::string& text : texts) {
    bool possible = false;
    for (const std::string_view before : {"", " "}) {
      if (before == " " && !space) continue;
      Text one{std::string(before) + text, 0, {}};
      const auto same = [&](const Text& other) { return other.bytes == one.bytes; };
      if (std::any_of(texts_.begin(), texts_.end(), same)) {
        possible = true;
        continue;
      }
      find_writable(one);
      if (!one.writable.front()) continue;
      possible = true;
      texts_.push_back(std::move(one));
    }
    if (!possible) {
      throw PromptError("choices cannot be kept: the tokenizer has no tokens to write " + quoted(text) +
                        " with.");
    }
  }
  find_allowed();
}

void Choices::find_writable(Text& text) const {
  text.writable.assign(text.bytes.size() + 1, false);
  text.writable.back() = true;
  for (std::size_t at = text.bytes.size(); at-- > 0;) {
    table_->prefixes(std::string_view(text.bytes).substr(at), [&](std::int64_t, std::size_t length) {
      if (text.writable[at + length]) text.writable[at] = true;
    });
  }
}

std::span<const std::uint8_t> Choices::allowed() { return allowed_; }

std::optional<std::int64_t> Choices::forced() {
  if (ended_ || allowed_ids_.size() != 1) return std::nullopt;
  return allowed_ids_.front();
}

void Choices::take(std::int64_t token) {
  if (!forced_.empty()) forced_.pop_back();
  if (std::find(stop_ids_.begin(), stop_ids_.end(), token) != stop_ids_.end()) {
    ended_ = true;
    return;
  }
  const std::string bytes = tokenizer_->token_bytes(token, KeepTokens::all, false);
  std::erase_if(texts_, [&](const Text& text) { return !text.left().starts_with(bytes); });
  for (Text& text : texts_) text.written += bytes.size();
  std::erase_if(texts_, [](const Text& text) { return !text.writable[text.written]; });
  find_allowed();
}

// The tokens that the tokenizer writes every text with that is left: where one is left, all of them.
void Choices::find_forced() {
  if (!encodes_alone_ || texts_.size() > most_compared) return;
  for (const Text& text : texts_) {
    const std::string_view left = text.left();
    std::vector<std::int64_t> ids = encoded(*tokenizer_, left);
    // The text of a special token is text here.
    const bool special =
        std::any_of(ids.begin(), ids.end(), [&](std::int64_t id) { return tokenizer_->is_special(id); });
    if (special || written_by(*tokenizer_, ids) != left) ids.clear();
    if (&text == &texts_.front()) {
      forced_ = std::move(ids);
    } else {
      const auto end = std::mismatch(forced_.begin(), forced_.end(), ids.begin(), ids.end()).first;
      forced_.erase(end, forced_.end());
    }
    if (forced_.empty()) return;
  }
  std::reverse(forced_.begin(), forced_.end());
}

void Choices::find_allowed() {
  allowed_ids_.clear();
  if (forced_.empty()) find_forced();
  if (!forced_.empty()) {
    allowed_ids_.push_back(forced_.back());
  } else {
    bool whole = false;
    for (const Text& text : texts_) {
      whole |= text.left().empty();
      table_->prefixes(text.left(), [&](std::int64_t id, std::size_t length) {
        if (text.writable[text.written + length]) allowed_ids_.push_back(id);
      });
    }
    std::sort(allowed_ids_.begin(), allowed_ids_.end());
    allowed_ids_.erase(std::unique(allowed_ids_.begin(), allowed_ids_.end()), allowed_ids_.end());
    ended_ = whole && allowed_ids_.empty();
    if (whole) allowed_ids_.insert(allowed_ids_.end(), stop_ids_.begin(), stop_ids_.end());
  }
  std::fill(allowed_.begin(), allowed_.end(), std::uint8_t{0});
  for (const std::int64_t id : allowed_ids_) {
    const auto at = static_cast<std::size_t>(id);
    if (at / 8 < allowed_.size()) allowed_[at / 8] |= static_cast<std::uint8_t>(1U << (at % 8));
  }
}

}  // namespace internvl
