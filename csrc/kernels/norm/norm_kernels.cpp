#include "kernels/norm/norm.h"
#include "kernels/vector/float_vector.h"

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

}  // namespace

const NormKernels& norm_kernels() {
  static constexpr NormKernels kernels{rms_norm};
  return kernels;
}

}  // namespace internvl::INTERNVL_ISA
