// y = x W^T for bf16 weights and activations rounded to bf16: twice as fast as in fp32 on processors that
// multiply those. Weights are never unpacked to fp32.
#pragma once

#include <cstddef>

#include "kernels/dispatch.h"
#include "kernels/matmul/gemm.h"
#include "kernels/matmul/row_pieces.h"
#include "kernels/vector/storage.h"

namespace internvl {

// Rounded rows of x end in zeros up to a multiple of this.
inline constexpr std::size_t bfloat16_row_step = 32;

// Rows of x, and those of the sums, have memory up to a multiple of this.
inline constexpr std::size_t bfloat16_row_group = 16;

// Rows of x that are taken past a panel before it is brought in order again: this many panels of panel_rows
// (gemm.h), or half as many wider ones.
inline constexpr std::size_t bfloat16_gemm_rows = 88 * row_piece_step;
inline constexpr std::size_t most_bfloat16_columns = 2 * panel_rows;

// Rows of x for which reading the weights takes longer than multiplying by them.
inline constexpr std::size_t bfloat16_few_rows = 16;

struct BFloat16GemmKernels {
  // Rounds rows of x [rows, k] to the nearest bf16, ties to even: out [rows, out_stride], filled with zeros.
  void (*round)(const float* x, std::size_t x_stride, std::size_t rows, std::size_t k, BFloat16* out,
                std::size_t out_stride);
  // sums[m, n] (+)= x[m, :] . w[n, :] over `depth` elements; sums are at a distance of `columns`, and written
  // up to it. `panel` is memory for panel_elements.
  // `next` is where the rows of W begin that this thread multiplies afterwards, which may be asked for; they
  // need not exist.
  // A sum takes its products in one order, whatever else is computed beside it: it depends on its two rows
  // alone.
  void (*multiply)(const BFloat16* x, std::size_t x_stride, std::size_t m, const BFloat16* w,
                   std::size_t w_stride, std::size_t n, std::size_t depth, bool accumulate, float* sums,
                   BFloat16* panel, const BFloat16* next);
  std::size_t columns;      // rows of W in a panel, at most most_bfloat16_columns
  std::size_t few_columns;  // the same where few rows of x meet them: small, so that threads end together and
                            // the other rows of x find the panel in the first cache
  std::size_t rows;         // the most of x for a panel, a multiple of row_piece_step and bfloat16_row_group;
                            // rows * columns is at most bfloat16_gemm_rows * panel_rows
};

const BFloat16GemmKernels& bfloat16_gemm_kernels(Features features);

}  // namespace internvl
