#include "kernels/matmul/bfloat16_gemm.h"
#include "kernels/vector/bfloat16/rounding.h"

#if defined(INTERNVL_AMX_BF16)
#include "kernels/matmul/bfloat16_tile_gemm.h"
#elif defined(INTERNVL_I8MM)
#include "kernels/matmul/bfloat16_matrix_tile.h"
#else
#include "kernels/matmul/bfloat16_pair_gemm.h"
#endif

namespace internvl::INTERNVL_ISA {
namespace {

void round(const float* x, std::size_t x_stride, std::size_t rows, std::size_t k, BFloat16* out,
           std::size_t out_stride) {
  for (std::size_t r = 0; r < rows; ++r) {
    const float* from = x + r * x_stride;
    BFloat16* to = out + r * out_stride;
    std::size_t i = 0;
    for (; i + lanes <= k; i += lanes) store_rounded(to + i, load(from + i));
    for (; i < k; ++i) to[i] = rounded_to_bfloat16(from[i]);
    for (; i < out_stride; ++i) to[i] = {0};
  }
}

}  // namespace

const BFloat16GemmKernels& bfloat16_gemm_kernels() {
  static constexpr BFloat16GemmKernels kernels{round, multiply, panel_columns, few_columns, most_rows};
  return kernels;
}

}  // namespace internvl::INTERNVL_ISA
