#include "kernels/quantise/quantise.h"
#include "kernels/quantise/quantise_block.h"

namespace internvl::INTERNVL_ISA {
namespace {

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
