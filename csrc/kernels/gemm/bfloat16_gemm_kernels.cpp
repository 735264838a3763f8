#include "kernels/gemm/bfloat16_gemm.h"

#if defined(INTERNVL_ISA_neon_i8mm)
#include "kernels/gemm/bfloat16_matrix_tile.h"
#else
#include "kernels/gemm/bfloat16_dot_tile.h"
#endif

namespace internvl::INTERNVL_ISA {
namespace {

BFloat16 rounded(float x) {
  std::uint32_t bits = 0;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  const bool nan = (bits & 0x7FFFFFFFU) > 0x7F800000U;
  const std::uint32_t nearest = (bits + 0x7FFFU + ((bits >> 16U) & 1U)) >> 16U;
  return {static_cast<std::uint16_t>(nan ? (bits >> 16U | 0x40U) : nearest)};
}

void round(const float* x, std::size_t x_stride, std::size_t rows, std::size_t k, BFloat16* out,
           std::size_t out_stride) {
  for (std::size_t r = 0; r < rows; ++r) {
    const float* from = x + r * x_stride;
    BFloat16* to = out + r * out_stride;
    for (std::size_t i = 0; i < k; ++i) to[i] = rounded(from[i]);
    for (std::size_t i = k; i < out_stride; ++i) to[i] = {0};
  }
}

}  // namespace

const BFloat16GemmKernels& bfloat16_gemm_kernels_of() {
  static constexpr BFloat16GemmKernels kernels{round, multiply};
  return kernels;
}

}  // namespace internvl::INTERNVL_ISA
