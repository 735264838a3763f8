// y = x W^T for bf16 weights and activations rounded to bf16: twice as fast as in fp32 on processors that
// multiply those. Weights are never unpacked to fp32.
#pragma once

#include <cstddef>

#include "kernels/dispatch.h"
#include "kernels/matmul/row_pieces.h"
#include "kernels/vector/storage.h"

namespace internvl {

// Rounded rows of x end in zeros up to a multiple of this.
inline constexpr std::size_t bfloat16_row_step = 32;

// The most rows of x that are taken past a panel before it is brought in order again.
inline constexpr std::size_t bfloat16_gemm_rows = 88 * row_piece_step;

// Rows of x for which reading the weights takes longer than multiplying by them.
inline constexpr std::size_t bfloat16_few_rows = 16;

struct BFloat16GemmKernels {
  // Rounds rows of x [rows, k] to the nearest bf16, ties to even: out [rows, out_stride], filled with zeros.
  void (*round)(const float* x, std::size_t x_stride, std::size_t rows, std::size_t k, BFloat16* out,
                std::size_t out_stride);
  // sums[m, n] (+)= x[m, :] . w[n, :] over `depth` elements; sums are at a distance of panel_rows (gemm.h),
  // and written up to it. `panel` is memory for panel_elements.
  // A sum takes its products one after the other, whatever else is computed beside it: it depends on its two
  // rows alone.
  void (*multiply)(const BFloat16* x, std::size_t x_stride, std::size_t m, const BFloat16* w,
                   std::size_t w_stride, std::size_t n, std::size_t depth, bool accumulate, float* sums,
                   BFloat16* panel);
};

const BFloat16GemmKernels& bfloat16_gemm_kernels(Features features);

}  // namespace internvl
