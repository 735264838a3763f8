#include "model/compressible.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

namespace internvl {
namespace {

float quantile(std::span<const float> values, double q) {
  std::vector<float> sorted(values.begin(), values.end());
  if (std::any_of(sorted.begin(), sorted.end(), [](float value) { return std::isnan(value); })) {
    return std::numeric_limits<float>::quiet_NaN();
  }
  std::sort(sorted.begin(), sorted.end());
  const double place = static_cast<double>(sorted.size() - 1) * q;
  const auto below = static_cast<std::size_t>(place);
  if (below + 1 >= sorted.size()) return sorted.back();
  const double part = place - std::floor(place);
  const float difference = sorted[below + 1] - sorted[below];
  // From the nearer end: so a step of the whole difference arrives exactly.
  if (part >= 0.5) return sorted[below + 1] - difference * static_cast<float>(1 - part);
  return sorted[below] + difference * static_cast<float>(part);
}

}  // namespace

std::vector<bool> compressible(std::span<const float> scores, const FlashFacts& facts) {
  std::vector<bool> chosen(scores.size());
  if (scores.empty()) return chosen;
  const float above = quantile(scores, facts.relative_threshold);
  const auto least = static_cast<float>(facts.absolute_threshold);
  std::transform(scores.begin(), scores.end(), chosen.begin(),
                 [&](float score) { return score > above && score >= least; });
  return chosen;
}

}  // namespace internvl
