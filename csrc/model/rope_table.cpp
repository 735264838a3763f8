#include "model/rope_table.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "runtime/error.h"
#include "runtime/rounding.h"

namespace internvl {
namespace {

// Positions that are computed at once when the table grows.
constexpr std::size_t growth = 1024;

}  // namespace

RopeTable::RopeTable(const RopeFacts& facts, std::size_t head_dim) : facts_(facts), head_dim_(head_dim) {
  for (const std::vector<double>* factors : {&facts.short_factors, &facts.long_factors}) {
    const bool positive = std::all_of(factors->begin(), factors->end(), [](double f) { return f > 0; });
    if (!factors->empty() && (factors->size() != head_dim / 2 || !positive)) {
      throw BundleError("the manifest has " + std::to_string(factors->size()) +
                        " factors of the rotary frequencies; expected " + std::to_string(head_dim / 2) +
                        ", all positive. Export the bundle again.");
    }
  }
}

void RopeTable::compute(std::size_t first, std::size_t count, double theta,
                        const std::vector<double>& factors, float* cosines, float* sines) const {
  const std::size_t half = head_dim_ / 2;
  for (std::size_t j = 0; j < half; ++j) {
    const double frequency = std::pow(theta, -2.0 * static_cast<double>(j) / static_cast<double>(head_dim_)) /
                             (factors.empty() ? 1.0 : factors[j]);
    for (std::size_t i = 0; i < count; ++i) {
      const double angle = static_cast<double>(first + i) * frequency;
      cosines[i * half + j] = static_cast<float>(std::cos(angle) * facts_.attention_factor);
      sines[i * half + j] = static_cast<float>(std::sin(angle) * facts_.attention_factor);
    }
  }
}

void RopeTable::fill(std::size_t first, std::size_t count, std::size_t length, float* cosines, float* sines) {
  const std::size_t half = head_dim_ / 2;
  if (facts_.dynamic && length > facts_.max_positions && head_dim_ > 2) {
    const double stretch =
        facts_.factor * static_cast<double>(length) / static_cast<double>(facts_.max_positions) -
        (facts_.factor - 1);
    const double power = static_cast<double>(head_dim_) / static_cast<double>(head_dim_ - 2);
    compute(first, count, facts_.theta * std::pow(stretch, power), facts_.short_factors, cosines, sines);
    return;
  }
  const bool is_long = !facts_.long_factors.empty() && length > facts_.original_positions;
  Known& table = is_long ? long_ : short_;
  const std::size_t known = table.cosines.size() / half;
  if (first + count > known) {
    const std::size_t positions = round_up(first + count, growth);
    table.cosines.resize(positions * half);
    table.sines.resize(positions * half);
    compute(known, positions - known, facts_.theta, is_long ? facts_.long_factors : facts_.short_factors,
            &table.cosines[known * half], &table.sines[known * half]);
  }
  std::copy_n(&table.cosines[first * half], count * half, cosines);
  std::copy_n(&table.sines[first * half], count * half, sines);
}

}  // namespace internvl
