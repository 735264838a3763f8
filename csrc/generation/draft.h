// An answer that is being written.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "generation/answer.h"
#include "generation/answer_text.h"
#include "generation/generation_settings.h"
#include "generation/token_chooser.h"
#include "prompt/tokenizer.h"

namespace internvl {

// Tokens of an answer that one step appends at most, so that a long run of forced ones can be cancelled.
inline constexpr std::size_t kMostTokensOfAStep = 64;

// One of the answers to a question.
struct AnswerRequest {
  GenerationSettings settings;
  std::uint64_t seed = 0;
  std::uint64_t index = 0;                 // see TokenChooser
  std::shared_ptr<Constraint> constraint;  // the form that the answer keeps, or null
};

// Not for several threads at once.
class Draft {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // `asked`: when the call began. `room`: tokens that the context has left for the answer.
  Draft(std::shared_ptr<const Tokenizer> tokenizer, const AnswerRequest& request,
        std::span<const std::int64_t> stop_ids, std::size_t room, Time asked);

  // Chooses the token of the step that began at `begun` from its logits [vocab], and those behind it that the
  // form forces: all end the answer as they would one by one. Throws what TokenChooser::choose() throws.
  void choose(std::span<const float> logits, Time begun);

  // What choose() chose: the tokens that the sequence has to be continued with.
  std::span<const std::int64_t> run() const { return run_; }
  bool ended() const { return finish_reason_.has_value(); }
  std::size_t tokens() const { return token_ids_.size(); }
  // Tokens of the answer that the sequence has; the run is not among them.
  std::span<const std::int64_t> computed() const;

  // The text that was added since the last call, and the number of tokens by then.
  std::string new_text();
  std::span<const std::int64_t> token_ids() const { return token_ids_; }

  // The whole answer, cancelled unless it has ended; the draft is not written on afterwards. Timings and
  // usage are those of the question, with what this answer took.
  Answer finish(const Timings& timings, const Usage& usage);

 private:
  void add(std::int64_t token);

  std::shared_ptr<const Tokenizer> tokenizer_;
  TokenChooser chooser_;
  AnswerText text_;
  std::vector<std::int64_t> stop_ids_;
  std::size_t most_tokens_;
  Time asked_;

  std::vector<std::int64_t> run_;
  std::size_t run_tokens_ = 0;  // of the run, those that belong to the answer
  std::vector<std::int64_t> token_ids_;
  std::string new_text_;
  std::string whole_text_;
  std::optional<FinishReason> finish_reason_;
  std::optional<double> first_token_ms_;
  std::optional<double> total_ms_;
  std::size_t forced_tokens_ = 0;
  std::size_t later_tokens_ = 0;
  double later_ms_ = 0.0;
};

}  // namespace internvl
