#include "generation/draft.h"

#include <algorithm>
#include <utility>

#include "generation/milliseconds.h"

namespace internvl {

Draft::Draft(std::shared_ptr<const Tokenizer> tokenizer, const AnswerRequest& request,
             std::span<const std::int64_t> stop_ids, std::size_t room, Time asked)
    : tokenizer_(std::move(tokenizer)),
      chooser_(request.settings, request.seed, request.index, request.constraint),
      // A form says itself which white space belongs to the answer.
      text_(tokenizer_, {request.settings.keep, request.settings.stop, request.constraint != nullptr}),
      most_tokens_(std::min(request.settings.max_new_tokens, room)),
      asked_(asked) {
  if (!request.settings.ignore_stop_tokens) stop_ids_.assign(stop_ids.begin(), stop_ids.end());
}

void Draft::choose(std::span<const float> logits, Time begun) {
  run_.clear();
  std::optional<std::int64_t> token = chooser_.choose(logits);
  const bool first = !first_token_ms_;
  if (first) first_token_ms_ = milliseconds_since(asked_);
  const std::size_t before = token_ids_.size();
  while (token) {
    run_.push_back(*token);
    add(*token);
    if (ended() || run_.size() == kMostTokensOfAStep) break;
    token = chooser_.choose_forced();
  }
  const std::size_t added = token_ids_.size() - before;  // a stop token is not among them
  run_tokens_ = added;
  forced_tokens_ += added - std::min<std::size_t>(added, 1);
  later_tokens_ += run_.size() - static_cast<std::size_t>(first);
  if (!first) later_ms_ += milliseconds_since(begun);
  if (ended()) total_ms_ = milliseconds_since(asked_);
}

void Draft::add(std::int64_t token) {
  if (std::find(stop_ids_.begin(), stop_ids_.end(), token) != stop_ids_.end()) {
    finish_reason_ = FinishReason::stop;
    return;
  }
  token_ids_.push_back(token);
  new_text_ += text_.push(token);
  if (text_.stopped() || chooser_.ended()) {
    finish_reason_ = FinishReason::stop;
  } else if (token_ids_.size() >= most_tokens_) {
    finish_reason_ = FinishReason::length;
  }
}

std::span<const std::int64_t> Draft::computed() const {
  return std::span(token_ids_).first(token_ids_.size() - run_tokens_);
}

std::string Draft::new_text() {
  whole_text_ += new_text_;
  return std::exchange(new_text_, {});
}

Answer Draft::finish(const Timings& timings, const Usage& usage) {
  new_text_ += text_.finish();
  Answer answer{whole_text_ + new_text_,
                token_ids_,
                finish_reason_.value_or(FinishReason::cancelled),
                timings,
                usage,
                text_of(tokenizer_, token_ids_, {KeepTokens::grounding, {}, chooser_.constrained()})};
  answer.timings.first_token = first_token_ms_.value_or(0.0);
  answer.timings.per_token = later_ms_ / static_cast<double>(std::max<std::size_t>(later_tokens_, 1));
  answer.timings.total = total_ms_ ? *total_ms_ : milliseconds_since(asked_);
  answer.usage.new_tokens = token_ids_.size();
  answer.usage.forced_tokens = forced_tokens_;
  return answer;
}

}  // namespace internvl
