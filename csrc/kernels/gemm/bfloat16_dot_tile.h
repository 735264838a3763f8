// Sums of bf16 products by dot products of rows, W as it is stored. Included by the kernel source only.
#pragma once

#include "kernels/gemm/gemm.h"
#include "kernels/vector/bfloat16_vector.h"

namespace internvl::INTERNVL_ISA {
namespace {

template <int Rows, int Columns>
struct PairTile {
  PairSums sum[Rows][Columns];

  [[gnu::always_inline]] void add(const BFloat16* x, std::size_t stride, const BFloat16Vector (&w)[Columns]) {
    for (int r = 0; r < Rows; ++r) {
      const BFloat16Vector row = load_bfloat16(x + static_cast<std::size_t>(r) * stride);
      for (int c = 0; c < Columns; ++c) sum[r][c] = dot(sum[r][c], w[c], row);
    }
  }
};

template <int Rows, int Columns>
void multiply_tile(const BFloat16* x, std::size_t x_stride, const BFloat16* w, std::size_t w_stride,
                   std::size_t depth, bool accumulate, float* sums) {
  PairTile<Rows, Columns> tile;
  for (int i = 0; i < Rows * Columns; ++i) tile.sum[i / Columns][i % Columns] = zero_pair_sums();
  std::size_t k = 0;
  for (; k + bfloat16_step <= depth; k += bfloat16_step) {
    BFloat16Vector weights[Columns];
    for (int c = 0; c < Columns; ++c)
      weights[c] = load_bfloat16(w + static_cast<std::size_t>(c) * w_stride + k);
    tile.add(x + k, x_stride, weights);
  }
  if (k < depth) {  // x ends in zeros, W does not
    BFloat16Vector weights[Columns];
    for (int c = 0; c < Columns; ++c) {
      weights[c] = load_bfloat16(w + static_cast<std::size_t>(c) * w_stride + k, depth - k);
    }
    tile.add(x + k, x_stride, weights);
  }
  FloatVector halves[Rows * Columns];
  float block[Rows * Columns];
  for (int i = 0; i < Rows * Columns; ++i) halves[i] = folded(tile.sum[i / Columns][i % Columns]);
  int i = 0;
  for (; i + 4 <= Rows * Columns; i += 4) {
    reduce_add4(halves[i], halves[i + 1], halves[i + 2], halves[i + 3], block + i);
  }
  for (; i < Rows * Columns; ++i) block[i] = reduce_add(halves[i]);
  for (int r = 0; r < Rows; ++r) {
    float* out = sums + static_cast<std::size_t>(r) * panel_rows;
    for (int c = 0; c < Columns; ++c) out[c] = (accumulate ? out[c] : 0.0F) + block[r * Columns + c];
  }
}

template <int Rows>
void multiply_rows(const BFloat16* x, std::size_t x_stride, const BFloat16* w, std::size_t w_stride,
                   std::size_t n, std::size_t depth, bool accumulate, float* sums) {
  std::size_t c = 0;
  for (; c + pair_tile_columns <= n; c += pair_tile_columns) {
    multiply_tile<Rows, pair_tile_columns>(x, x_stride, w + c * w_stride, w_stride, depth, accumulate,
                                           sums + c);
  }
  for (; c < n; ++c)
    multiply_tile<Rows, 1>(x, x_stride, w + c * w_stride, w_stride, depth, accumulate, sums + c);
}

void multiply(const BFloat16* x, std::size_t x_stride, std::size_t m, const BFloat16* w, std::size_t w_stride,
              std::size_t n, std::size_t depth, bool accumulate, float* sums) {
  std::size_t r = 0;
  for (; r + pair_tile_rows <= m; r += pair_tile_rows) {
    multiply_rows<pair_tile_rows>(x + r * x_stride, x_stride, w, w_stride, n, depth, accumulate,
                                  sums + r * panel_rows);
  }
  for (; r < m; ++r) {
    multiply_rows<1>(x + r * x_stride, x_stride, w, w_stride, n, depth, accumulate, sums + r * panel_rows);
  }
}

}  // namespace
}  // namespace internvl::INTERNVL_ISA
