// The choice of the next token from the logits, with the meaning and order that transformers gives to the
// options: repetition penalty, temperature, top k, top p, softmax, draw.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "generation/philox.h"

namespace internvl {

struct SamplingOptions {
  float temperature = 1.0F;  // > 0
  std::int64_t top_k = 0;    // tokens below the k-th largest logit are never drawn; 0: no limit
  float top_p = 1.0F;        // 0 to 1: the smallest set of best tokens that has this probability
  float repetition_penalty =
      1.0F;  // > 0: logits of tokens in the history are divided by it, or multiplied if negative
};

// The token with the largest logit after the repetition penalty, the lowest id of equals. `history` is prompt
// and generated ids; ids beyond the vocabulary are ignored. Throws PromptError if the penalty or an id is out
// of range, Error if the logits are empty or hold NaN.
std::int64_t argmax(std::span<const float> logits, float repetition_penalty,
                    std::span<const std::int64_t> history);

// What a token is drawn from: weights in proportion to probability, 0 for tokens that the options exclude.
class TokenDistribution {
 public:
  // Throws PromptError if an option or id is out of range, Error if the logits are empty, hold NaN or
  // +infinity, or are all -infinity.
  void set(std::span<const float> logits, const SamplingOptions& options,
           std::span<const std::int64_t> history);

  std::span<const float> weights() const { return weights_; }  // [vocab]
  double total() const { return total_; }

  // The token at `position`, 0 <= position < 1, of the distribution laid out in the order of ids.
  std::int64_t token_at(double position) const;

 private:
  struct Candidate {
    float score;
    std::int64_t id;
  };

  float kth_largest(std::size_t k, float largest);
  void keep_best(double share, float largest);

  // Kept between calls, for their memory.
  std::vector<float> scores_;
  std::vector<float> weights_;
  std::vector<Candidate> candidates_;
  double total_ = 0.0;
};

// Draws tokens. The same seed and logits give the same tokens on every machine with the same math library.
// Calls from several threads take turns.
class Sampler {
 public:
  explicit Sampler(std::uint64_t seed) : random_(seed) {}

  // Throws what TokenDistribution::set() throws.
  std::int64_t sample(std::span<const float> logits, const SamplingOptions& options,
                      std::span<const std::int64_t> history);

  // Uses up the random number of a token that is known without drawing it.
  void skip();

  // A sampler with an independent stream of the same seed, for the index-th of several answers.
  Sampler fork(std::uint64_t index) const;

 private:
  explicit Sampler(const RandomStream& random) : random_(random) {}

  RandomStream random_;
  TokenDistribution distribution_;
  std::mutex mutex_;
};

}  // namespace internvl
