// Chooses the tokens of one answer from the logits, as its settings and its form say.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "generation/constraint.h"
#include "generation/generation_settings.h"
#include "generation/sampler.h"

namespace internvl {

// The repetition penalty looks at the answer alone, as it does in the authors' code, which gives embeddings
// instead of a prompt's ids to transformers. Not for several threads at once.
class TokenChooser {
 public:
  // `index`: of several answers with one seed. Each has a stream of random numbers of its own, and the first
  // one that of an answer that is alone. `constraint`: the form that the answer keeps, or null.
  TokenChooser(const GenerationSettings& settings, std::uint64_t seed, std::uint64_t index,
               std::shared_ptr<Constraint> constraint);

  // The next token, from logits [vocab]. Throws Error if they hold NaN, PromptError if the form cannot be
  // kept.
  std::int64_t choose(std::span<const float> logits);

  // The next token without logits, where the form leaves no other one. It counts as choose() would have
  // counted it: for the repetition penalty, the random numbers and the form.
  std::optional<std::int64_t> choose_forced();

  // The answer's form is complete.
  bool ended() const { return constraint_ != nullptr && constraint_->complete(); }
  bool constrained() const { return constraint_ != nullptr; }

 private:
  void take(std::int64_t token);

  bool draws_;
  SamplingOptions options_;
  Sampler sampler_;
  std::shared_ptr<Constraint> constraint_;
  std::vector<std::int64_t> history_;
  std::vector<float> masked_;
};

}  // namespace internvl
