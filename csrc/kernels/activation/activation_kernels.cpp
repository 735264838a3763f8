#include "kernels/activation/activation.h"
#include "kernels/activation/silu.h"

namespace internvl::INTERNVL_ISA {
namespace {

void silu_multiply(const float* gate, const float* up, std::size_t n, float* out) {
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) store(out + i, silu(load(gate + i)) * load(up + i));
  if (i < n) store(out + i, silu(load(gate + i, n - i)) * load(up + i, n - i), n - i);
}

}  // namespace

const ActivationKernels& activation_kernels() {
  static constexpr ActivationKernels kernels{silu_multiply};
  return kernels;
}

}  // namespace internvl::INTERNVL_ISA
