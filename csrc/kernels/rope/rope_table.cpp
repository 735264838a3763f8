#include "kernels/rope/rope_table.h"

#include <algorithm>
#include <cmath>

namespace internvl {
namespace {

// Positions that are computed at once when the table grows.
constexpr std::size_t growth = 1024;

}  // namespace

RopeTable::RopeTable(const RopeFacts& facts, std::size_t head_dim) : facts_(facts), head_dim_(head_dim) {}

void RopeTable::compute(std::size_t first, std::size_t count, double theta, float* cosines,
                        float* sines) const {
  const std::size_t half = head_dim_ / 2;
  for (std::size_t j = 0; j < half; ++j) {
    const double frequency = std::pow(theta, -2.0 * static_cast<double>(j) / static_cast<double>(head_dim_));
    for (std::size_t i = 0; i < count; ++i) {
      const double angle = static_cast<double>(first + i) * frequency;
      cosines[i * half + j] = static_cast<float>(std::cos(angle));
      sines[i * half + j] = static_cast<float>(std::sin(angle));
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
    compute(first, count, facts_.theta * std::pow(stretch, power), cosines, sines);
    return;
  }
  const std::size_t known = cosines_.size() / half;
  if (first + count > known) {
    const std::size_t positions = (first + count + growth - 1) / growth * growth;
    cosines_.resize(positions * half);
    sines_.resize(positions * half);
    compute(known, positions - known, facts_.theta, &cosines_[known * half], &sines_[known * half]);
  }
  std::copy_n(&cosines_[first * half], count * half, cosines);
  std::copy_n(&sines_[first * half], count * half, sines);
}

}  // namespace internvl
