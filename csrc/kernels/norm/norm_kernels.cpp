#include "kernels/norm/norm.h"
#include "kernels/vector/float/vector.h"

namespace internvl::INTERNVL_ISA {
namespace {

void rms_norm(const float* x, const float* weight, std::size_t n, float eps, float* out) {
  FloatVector squares = broadcast(0.0F);
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const FloatVector v = load(x + i);
    squares = fma(v, v, squares);
  }
  if (i < n) {
    const FloatVector v = load(x + i, n - i);
    squares = fma(v, v, squares);
  }
  const float mean = reduce_add(squares) / static_cast<float>(n);
  const FloatVector factor = broadcast(1.0F / __builtin_sqrtf(mean + eps));
  for (i = 0; i + lanes <= n; i += lanes) store(out + i, load(x + i) * factor * load(weight + i));
  if (i < n) store(out + i, load(x + i, n - i) * factor * load(weight + i, n - i), n - i);
}

void layer_norm(const float* x, const float* weight, const float* bias, std::size_t n, float eps,
                float* out) {
  FloatVector sum = broadcast(0.0F);
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) sum = sum + load(x + i);
  if (i < n) sum = sum + load(x + i, n - i);
  const float mean = reduce_add(sum) / static_cast<float>(n);
  const FloatVector center = broadcast(mean);
  FloatVector squares = broadcast(0.0F);
  for (i = 0; i + lanes <= n; i += lanes) {
    const FloatVector difference = load(x + i) - center;
    squares = fma(difference, difference, squares);
  }
  // Lanes behind the end hold 0, not differences.
  float variance = reduce_add(squares);
  for (; i < n; ++i) variance += (x[i] - mean) * (x[i] - mean);
  variance /= static_cast<float>(n);
  const FloatVector factor = broadcast(1.0F / __builtin_sqrtf(variance + eps));
  for (i = 0; i + lanes <= n; i += lanes) {
    store(out + i, fma((load(x + i) - center) * factor, load(weight + i), load(bias + i)));
  }
  if (i < n) {
    const std::size_t rest = n - i;
    const FloatVector value = (load(x + i, rest) - center) * factor;
    store(out + i, fma(value, load(weight + i, rest), load(bias + i, rest)), rest);
  }
}

}  // namespace

const NormKernels& norm_kernels() {
  static constexpr NormKernels kernels{rms_norm, layer_norm};
  return kernels;
}

}  // namespace internvl::INTERNVL_ISA
