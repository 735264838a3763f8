#include "image/resample_filter.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>

#include "runtime/error.h"

namespace internvl {
namespace {

constexpr double cubic_support = 2.0;

double cubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
  return 0.0;
}

std::int32_t to_fixed(double weight) {
  const double scaled = weight * (1 << weight_bits);
  return static_cast<std::int32_t>(scaled < 0.0 ? scaled - 0.5 : scaled + 0.5);
}

TapPair to_pair(std::int32_t first, std::int32_t second) {
  const auto low = [](std::int32_t weight) { return static_cast<std::int16_t>(weight & 0xffff); };
  const auto high = [&](std::int32_t weight) { return (weight - low(weight)) / 65536; };
  // Weights sum to 1 and the negative ones to less than a quarter, so this cannot happen; the kernels depend
  // on it.
  if (std::abs(high(first)) + std::abs(high(second)) > 128) {
    throw Error("A resampling weight is out of range; please report the picture's size.");
  }
  const auto first_high = static_cast<std::int8_t>(high(first));
  const auto second_high = static_cast<std::int8_t>(high(second));
  return {{low(first), low(second)}, {first_high, second_high, first_high, second_high}};
}

}  // namespace

ResampleFilter::ResampleFilter(std::size_t source, std::size_t outputs) : source_(source) {
  const double scale = static_cast<double>(source) / static_cast<double>(outputs);
  const double widening = std::max(scale, 1.0);
  const double support = cubic_support * widening;
  const double narrowing = 1.0 / widening;
  taps_.reserve(outputs);
  std::vector<double> exact;
  for (std::size_t output = 0; output < outputs; ++output) {
    const double centre = (static_cast<double>(output) + 0.5) * scale;
    const double first_edge = std::max(centre - support + 0.5, 0.0);
    const double end_edge = centre + support + 0.5;
    const auto first = static_cast<std::int64_t>(first_edge);
    const auto end = std::min(static_cast<std::int64_t>(end_edge), static_cast<std::int64_t>(source));
    exact.clear();
    double sum = 0.0;
    for (std::int64_t i = first; i < end; ++i) {
      exact.push_back(cubic((static_cast<double>(i) - centre + 0.5) * narrowing));
      sum += exact.back();
    }
    const std::size_t pairs = (exact.size() + 1) / 2;
    taps_.push_back({static_cast<std::uint32_t>(first), static_cast<std::uint32_t>(pairs), weights_.size()});
    most_taps_ = std::max(most_taps_, 2 * pairs);
    exact.resize(2 * pairs, 0.0);
    for (std::size_t i = 0; i < exact.size(); i += 2) {
      weights_.push_back(to_pair(to_fixed(exact[i] / sum), to_fixed(exact[i + 1] / sum)));
    }
  }
  choose_chunk();
}

std::size_t ResampleFilter::end(std::size_t output) const {
  return std::min(taps_[output].first + 2 * static_cast<std::size_t>(taps_[output].pairs), source_);
}

// A stretch of the source, transposed, should fit into the first or second level of cache, and be
// long beside the taps that two stretches share.
void ResampleFilter::choose_chunk() {
  const double scale = static_cast<double>(source_) / static_cast<double>(outputs());
  const double wanted = std::max(512.0, 4.0 * static_cast<double>(most_taps_));
  const auto blocks = static_cast<std::size_t>(wanted / (scale * static_cast<double>(pixel_block)));
  chunk_ = std::max<std::size_t>(blocks, 1) * pixel_block;
  for (std::size_t begin = 0; begin < outputs(); begin += chunk_) {
    chunk_source_ = std::max(chunk_source_, end(std::min(begin + chunk_, outputs()) - 1) - first(begin));
  }
}

}  // namespace internvl
