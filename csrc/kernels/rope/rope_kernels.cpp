#include "kernels/rope/rope.h"
#include "kernels/vector/float/vector.h"

namespace internvl::INTERNVL_ISA {
namespace {

void rotate(float* heads, std::size_t count, std::size_t head_dim, const float* cosines, const float* sines) {
  const std::size_t half = head_dim / 2;
  for (std::size_t h = 0; h < count; ++h) {
    float* first = heads + h * head_dim;
    float* second = first + half;
    std::size_t j = 0;
    for (; j + lanes <= half; j += lanes) {
      const FloatVector a = load(first + j);
      const FloatVector b = load(second + j);
      const FloatVector c = load(cosines + j);
      const FloatVector s = load(sines + j);
      store(first + j, a * c - b * s);
      store(second + j, b * c + a * s);
    }
    if (j < half) {
      const std::size_t remaining = half - j;
      const FloatVector a = load(first + j, remaining);
      const FloatVector b = load(second + j, remaining);
      const FloatVector c = load(cosines + j, remaining);
      const FloatVector s = load(sines + j, remaining);
      store(first + j, a * c - b * s, remaining);
      store(second + j, b * c + a * s, remaining);
    }
  }
}

}  // namespace

const RopeKernels& rope_kernels() {
  static constexpr RopeKernels kernels{rotate};
  return kernels;
}

}  // namespace internvl::INTERNVL_ISA
