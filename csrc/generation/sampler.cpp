#include "generation/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>

#include "runtime/error.h"

namespace internvl {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// Scores are sorted into buckets by their distance from the largest, so that only one bucket, where a limit
// falls, need be looked at closely, and the vocabulary is never sorted.
constexpr float buckets_per_unit = 32.0F;
constexpr std::size_t bucket_count = 1024;

std::size_t bucket_of(float score, float largest) {
  return static_cast<std::size_t>(
      std::min((largest - score) * buckets_per_unit, static_cast<float>(bucket_count - 1)));
}

// The largest score; NaN if there is one. Written in lanes because compilers do not reorder floating-point
// maxima.
float largest_of(std::span<const float> scores) {
  constexpr std::size_t lanes = 16;
  std::array<float, lanes> best{};
  best.fill(-infinity);
  std::array<std::uint32_t, lanes> not_numbers{};
  std::size_t i = 0;
  for (; i + lanes <= scores.size(); i += lanes) {
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      const float score = scores[i + lane];
      best[lane] = best[lane] < score ? score : best[lane];
      not_numbers[lane] |= static_cast<std::uint32_t>(score != score);
    }
  }
  for (; i < scores.size(); ++i) {
    best[0] = std::max(best[0], scores[i]);
    not_numbers[0] |= static_cast<std::uint32_t>(std::isnan(scores[i]));
  }
  if (std::any_of(not_numbers.begin(), not_numbers.end(), [](std::uint32_t any) { return any != 0; }))
    return NAN;
  return *std::max_element(best.begin(), best.end());
}

// Throws unless there is a largest score.
float checked_largest(std::span<const float> scores) {
  if (scores.empty())
    throw Error("There are no logits to choose a token from; expected one per vocabulary entry.");
  const float largest = largest_of(scores);
  if (std::isnan(largest)) {
    throw Error(
        "The logits hold NaN, so no token can be chosen: the model's weights or input hold values that are "
        "not numbers.",
        ErrorCode::logits_not_a_number);
  }
  return largest;
}

void penalise(std::span<const float> logits, float penalty, std::span<const std::int64_t> history,
              std::span<float> scores) {
  if (!(penalty > 0.0F) || penalty == infinity) {
    throw PromptError("repetition_penalty is " + std::to_string(penalty) +
                      "; expected a number above 0; 1 is off.");
  }
  const auto vocabulary = static_cast<std::int64_t>(logits.size());
  for (const std::int64_t id : history) {
    if (id < 0)
      throw PromptError("The history holds the token id " + std::to_string(id) + "; expected ids from 0.");
    if (id >= vocabulary) continue;  // may be an id that the model reads but never writes
    const float logit = logits[id];
    scores[id] = logit < 0.0F ? logit * penalty : logit / penalty;
  }
}

void check(const SamplingOptions& options) {
  if (!(options.temperature > 0.0F) || options.temperature == infinity) {
    throw PromptError("temperature is " + std::to_string(options.temperature) +
                      "; expected a number above 0. Without do_sample the likeliest token is taken.");
  }
  if (options.top_k < 0) {
    throw PromptError("top_k is " + std::to_string(options.top_k) +
                      "; expected 1 or more, or 0 for no limit.");
  }
  if (!(options.top_p >= 0.0F && options.top_p <= 1.0F)) {
    throw PromptError("top_p is " + std::to_string(options.top_p) + "; expected 0 to 1; 1 is off.");
  }
}

}  // namespace

std::int64_t argmax(std::span<const float> logits, float repetition_penalty,
                    std::span<const std::int64_t> history) {
  std::vector<float> scores;
  std::span<const float> chosen_from = logits;
  if (repetition_penalty != 1.0F) {
    scores.assign(logits.begin(), logits.end());
    penalise(logits, repetition_penalty, history, scores);
    chosen_from = scores;
  }
  const float largest = checked_largest(chosen_from);
  return std::find(chosen_from.begin(), chosen_from.end(), largest) - chosen_from.begin();
}

void TokenDistribution::set(std::span<const float> logits, const SamplingOptions& options,
                            std::span<const std::int64_t> history) {
  check(options);
  scores_.assign(logits.begin(), logits.end());
  penalise(logits, options.repetition_penalty, history, scores_);
  if (options.temperature != 1.0F) {
    for (float& score : scores_) score /= options.temperature;
  }
  const float largest = checked_largest(scores_);
  if (std::isinf(largest)) {
    throw Error(largest > 0.0F ? "The logits hold infinity, so no token can be drawn; use a wider precision."
                               : "Every logit is minus infinity, so no token can be drawn.");
  }
  float least = -infinity;
  const auto k = static_cast<std::size_t>(options.top_k);
  if (k != 0 && k < scores_.size()) least = kth_largest(k, largest);
  weights_.resize(scores_.size());
  total_ = 0.0;
  for (std::size_t id = 0; id < scores_.size(); ++id) {
    weights_[id] = scores_[id] >= least ? std::exp(scores_[id] - largest) : 0.0F;
    total_ += weights_[id];
  }
  if (options.top_p < 1.0F) keep_best(options.top_p, largest);
}

float TokenDistribution::kth_largest(std::size_t k, float largest) {
  std::array<std::size_t, bucket_count> counts{};
  for (const float score : scores_) ++counts[bucket_of(score, largest)];
  std::size_t bucket = 0;
  std::size_t better = 0;
  for (; better + counts[bucket] < k; ++bucket) better += counts[bucket];
  candidates_.clear();
  for (const float score : scores_) {
    if (bucket_of(score, largest) == bucket) candidates_.push_back({score, 0});
  }
  const auto kth = candidates_.begin() + static_cast<std::ptrdiff_t>(k - better - 1);
  std::nth_element(candidates_.begin(), kth, candidates_.end(),
                   [](const Candidate& a, const Candidate& b) { return a.score > b.score; });
  return kth->score;
}

// Keeps the tokens before which, in order of probability and then id, lies less than `share` of the whole.
void TokenDistribution::keep_best(double share, float largest) {
  std::array<double, bucket_count> masses{};
  for (std::size_t id = 0; id < scores_.size(); ++id) masses[bucket_of(scores_[id], largest)] += weights_[id];
  const double limit = share * total_;
  std::size_t bucket = 0;
  double better = 0.0;
  for (; bucket < bucket_count - 1 && better + masses[bucket] < limit; ++bucket) better += masses[bucket];
  candidates_.clear();
  for (std::size_t id = 0; id < scores_.size(); ++id) {
    const std::size_t place = bucket_of(scores_[id], largest);
    if (place == bucket && weights_[id] != 0.0F)
      candidates_.push_back({scores_[id], static_cast<std::int64_t>(id)});
    if (place > bucket) weights_[id] = 0.0F;
  }
  std::sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) {
    return a.score != b.score ? a.score > b.score : a.id < b.id;
  });
  std::size_t kept = 0;
  double kept_mass = better;
  while (kept < candidates_.size() && (kept_mass < limit || kept_mass == 0.0)) {
    kept_mass += weights_[candidates_[kept++].id];
  }
  for (std::size_t i = kept; i < candidates_.size(); ++i) weights_[candidates_[i].id] = 0.0F;
  total_ = kept_mass;
}

std::int64_t TokenDistribution::token_at(double position) const {
  const double target = position * total_;
  double passed = 0.0;
  std::int64_t last = 0;
  for (std::size_t id = 0; id < weights_.size(); ++id) {
    if (weights_[id] == 0.0F) continue;
    passed += weights_[id];
    last = static_cast<std::int64_t>(id);
    if (passed > target) break;
  }
  return last;  // the last one too if rounding left the sum short of the target
}

std::int64_t Sampler::sample(std::span<const float> logits, const SamplingOptions& options,
                             std::span<const std::int64_t> history) {
  const std::lock_guard turn(mutex_);
  distribution_.set(logits, options, history);
  return distribution_.token_at(random_.uniform());
}

void Sampler::skip() {
  const std::lock_guard turn(mutex_);
  random_.uniform();
}

Sampler Sampler::fork(std::uint64_t index) const { return Sampler(random_.fork(index)); }

}  // namespace internvl
