// From fp32 to int8, for a row or one of its blocks. Included by kernel sources only.
#pragma once

#include "kernels/quantise/quantised_rows.h"
#include "kernels/vector/integer/vector.h"

namespace internvl::INTERNVL_ISA {
namespace {

constexpr float most_quantised = 127.0F;

struct Scale {
  float scale;
  float inverse;
};

// `poison` is 0, or NaN where an element was not finite.
Scale scale_of(float greatest, float poison) {
  constexpr float least = 0x1p-100F;
  const float bounded = greatest + poison;
  if (bounded >= least) return {bounded / most_quantised, most_quantised / bounded};
  return {bounded < least ? 0.0F : poison, 0.0F};
}

// What is known of a group's magnitudes.
struct Range {
  FloatVector greatest = broadcast(0.0F);
  FloatVector poison = broadcast(0.0F);

  void add(FloatVector x) {
    greatest = max(greatest, max(x, broadcast(0.0F) - x));
    poison = fma(x, broadcast(0.0F), poison);  // 0 * infinity is NaN
  }
  Scale scale() const { return scale_of(reduce_max(greatest), reduce_add(poison)); }
};

FloatVector scaled(FloatVector x, FloatVector inverse) {
  // max() gives its second operand where x is NaN: what is rounded is always a number.
  return max(min(x * inverse, broadcast(most_quantised)), broadcast(-most_quantised));
}

std::int32_t sum_of(const std::int8_t* values, std::size_t count) {
  std::int32_t sum = 0;
  for (std::size_t i = 0; i < count; ++i) sum += values[i];
  return sum;
}

void zero_end(std::size_t from, std::size_t k, std::int8_t* values) {
  const std::size_t end = (k + quantised_step - 1) / quantised_step * quantised_step;
  for (; from < end; ++from) values[from] = 0;
}

// `count` <= quantised_block elements; zeros stand for what is missing of a block.
template <bool Split>
void quantise_block(const float* x, std::size_t count, std::int8_t* values, float* scale,
                    std::int32_t* start) {
  FloatVector v[4];
  Range range;
  for (std::size_t j = 0; j < 4; ++j) {
    const std::size_t at = j * lanes;
    if (count == quantised_block) {
      v[j] = load(x + at);
    } else {
      v[j] = at < count ? load(x + at, count - at) : broadcast(0.0F);
    }
    range.add(v[j]);
  }
  const Scale found = range.scale();
  for (FloatVector& part : v) part = scaled(part, broadcast(found.inverse));
  if constexpr (Split) {
    store_rounded_split(values, v);
  } else {
    store_rounded(values, v);
  }
  *scale = found.scale;
  *start = -(Split ? int4_weight_offset : int8_weight_offset) * sum_of(values, quantised_block);
}

}  // namespace
}  // namespace internvl::INTERNVL_ISA
