// Sums of bf16 products where the processor multiplies matrices. Sixteen rows of W at a time are brought into
// the order in which they are multiplied; every row of x then meets them. Included by the kernel source only.
#pragma once

#include "kernels/gemm/gemm.h"
#include "kernels/vector/bfloat16_matrix_vector.h"

namespace internvl::INTERNVL_ISA {
namespace {

constexpr std::size_t matrix_columns = matrix_tile_columns;
constexpr int column_pairs = matrix_columns / 2;
constexpr int most_row_pairs = matrix_tile_rows / 2;
static_assert(panel_depth % (2 * word_elements) == 0 && column_pairs % 2 == 0);

// Words of n <= matrix_columns rows of W, those of all rows beside each other: panel [depth / 4,
// matrix_columns, 4]. Rows and elements that W does not have are 0.
void pack(const BFloat16* w, std::size_t w_stride, std::size_t n, std::size_t depth, BFloat16* panel) {
  constexpr std::size_t step = 2 * word_elements;
  for (std::size_t c = 0; c < matrix_columns; c += 2) {
    for (std::size_t k = 0; k < depth; k += step) {
      const BFloat16* from = w + c * w_stride + k;
      BFloat16* to = panel + k * matrix_columns + c * word_elements;
      if (c + 2 <= n && k + step <= depth) {
        store_words(from, from + w_stride, to, word_elements * matrix_columns);
        continue;
      }
      BFloat16 edge[2][step] = {};
      for (std::size_t row = 0; row < 2 && c + row < n; ++row) {
        for (std::size_t i = 0; i < step && k + i < depth; ++i) edge[row][i] = from[row * w_stride + i];
      }
      store_words(edge[0], edge[1], to, word_elements * matrix_columns);
    }
  }
}

// The last row of an odd number is its own partner: its sums are the same as any partner would leave.
template <int RowPairs>
void multiply_tile(const BFloat16* x, std::size_t x_stride, std::size_t rows, const BFloat16* panel,
                   std::size_t n, std::size_t depth, bool accumulate, float* sums) {
  const BFloat16* row[2 * RowPairs];
  for (std::size_t r = 0; r < 2 * RowPairs; ++r) row[r] = x + (r < rows ? r : rows - 1) * x_stride;
  MatrixSums tile[RowPairs][column_pairs];
  for (int p = 0; p < RowPairs; ++p) {
    for (int c = 0; c < column_pairs; ++c) tile[p][c] = zero_matrix_sums();
  }
  for (std::size_t k = 0; k < depth; k += word_elements) {  // x and the panel end in zeros
    WordPair words[RowPairs];
    for (int p = 0; p < RowPairs; ++p) words[p] = load_words(row[2 * p] + k, row[2 * p + 1] + k);
    for (int c = 0; c < column_pairs; ++c) {
      const WordPair weights =
          load_words(panel + k * matrix_columns + 2 * word_elements * static_cast<std::size_t>(c));
      for (int p = 0; p < RowPairs; ++p) tile[p][c] = multiply(tile[p][c], words[p], weights);
    }
  }
  float block[2 * RowPairs][matrix_columns];
  for (int p = 0; p < RowPairs; ++p) {
    for (int c = 0; c < column_pairs; c += 2)
      store_rows(tile[p][c], tile[p][c + 1], &block[2 * p][2 * c], &block[2 * p + 1][2 * c]);
  }
  for (std::size_t r = 0; r < rows; ++r) {
    float* out = sums + r * panel_rows;
    for (std::size_t c = 0; c < n; ++c) out[c] = (accumulate ? out[c] : 0.0F) + block[r][c];
  }
}

// `rows` <= 2 * RowPairs rows of x past the panel's n columns.
template <int RowPairs>
void multiply_rows(const BFloat16* x, std::size_t x_stride, std::size_t rows, const BFloat16* panel,
                   std::size_t n, std::size_t depth, bool accumulate, float* sums) {
  if constexpr (RowPairs > 1) {
    if (rows <= 2 * (RowPairs - 1))
      return multiply_rows<RowPairs - 1>(x, x_stride, rows, panel, n, depth, accumulate, sums);
  }
  multiply_tile<RowPairs>(x, x_stride, rows, panel, n, depth, accumulate, sums);
}

void multiply(const BFloat16* x, std::size_t x_stride, std::size_t m, const BFloat16* w, std::size_t w_stride,
              std::size_t n, std::size_t depth, bool accumulate, float* sums) {
  BFloat16 panel[matrix_columns * panel_depth];
  for (std::size_t c = 0; c < n; c += matrix_columns) {
    const std::size_t count = n - c < matrix_columns ? n - c : matrix_columns;
    pack(w + c * w_stride, w_stride, count, depth, panel);
    for (std::size_t r = 0; r < m; r += matrix_tile_rows) {
      const std::size_t rows = m - r < matrix_tile_rows ? m - r : matrix_tile_rows;
      multiply_rows<most_row_pairs>(x + r * x_stride, x_stride, rows, panel, count, depth, accumulate,
                                    sums + r * panel_rows + c);
    }
  }
}

}  // namespace
}  // namespace internvl::INTERNVL_ISA
