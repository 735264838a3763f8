#include "kernels/quantise/quantise.h"
#include "kernels/vector/integer/vector.h"

namespace internvl::INTERNVL_ISA {
namespace {

constexpr float most = 127.0F;

struct Scale {
  float scale;
  float inverse;
};

// `poison` is 0, or NaN where an element was not finite.
Scale scale_of(float greatest, float poison) {
  constexpr float least = 0x1p-100F;
  const float bounded = greatest + poison;
  if (bounded >= least) return {bounded / most, most / bounded};
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
  return max(min(x * inverse, broadcast(most)), broadcast(-most));
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

void whole(const float* x, std::size_t k, std::int8_t* values, float* scales, std::int32_t* starts) {
  Range range;
  std::size_t i = 0;
  for (; i + lanes <= k; i += lanes) range.add(load(x + i));
  if (i < k) range.add(load(x + i, k - i));
  const Scale scale = range.scale();
  const FloatVector inverse = broadcast(scale.inverse);
  for (i = 0; i + 4 * lanes <= k; i += 4 * lanes) {
    const FloatVector v[4] = {scaled(load(x + i), inverse), scaled(load(x + i + lanes), inverse),
                              scaled(load(x + i + 2 * lanes), inverse),
                              scaled(load(x + i + 3 * lanes), inverse)};
    store_rounded(values + i, v);
  }
  if (i < k) {
    FloatVector v[4];
    for (std::size_t j = 0; j < 4; ++j) {
      const std::size_t at = i + j * lanes;
      v[j] = at < k ? scaled(load(x + at, k - at), inverse) : broadcast(0.0F);
    }
    store_rounded(values + i, v);
    i += 4 * lanes;
  }
  zero_end(i, k, values);
  *scales = scale.scale;
  *starts = -int8_weight_offset * sum_of(values, k);
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

template <bool Split>
void by_block(const float* x, std::size_t k, std::int8_t* values, float* scales, std::int32_t* starts) {
  std::size_t i = 0;
  for (; i + quantised_block <= k; i += quantised_block) {
    quantise_block<Split>(x + i, quantised_block, values + i, scales++, starts++);
  }
  if (i < k) {
    quantise_block<Split>(x + i, k - i, values + i, scales, starts);
    i += quantised_block;
  }
  zero_end(i, k, values);
}

}  // namespace

const QuantiseKernels& quantise_kernels() {
  static constexpr QuantiseKernels kernels{whole, by_block<false>, by_block<true>};
  return kernels;
}

}  // namespace internvl::INTERNVL_ISA
