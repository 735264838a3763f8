// Sums of bf16 products where the processor multiplies matrices. Where more rows of x than one tile's meet a
// few rows of W, these are first brought into the order in which they are multiplied. Every sum is taken in
// the same order either way. Included by the kernel source only.
#pragma once

#include "kernels/matmul/gemm.h"
#include "kernels/vector/bfloat16/matrix.h"

namespace internvl::INTERNVL_ISA {
namespace {

constexpr std::size_t panel_columns = panel_rows;
constexpr std::size_t most_rows = bfloat16_gemm_rows;
// As small as the tiles allow.
constexpr std::size_t few_columns = 16;

constexpr std::size_t matrix_columns = matrix_tile_columns;
constexpr int column_pairs = matrix_columns / 2;
constexpr int most_row_pairs = matrix_tile_rows / 2;
static_assert(matrix_columns <= panel_rows && panel_depth % (2 * word_elements) == 0 &&
              column_pairs % 2 == 0);

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

// Words of W where pack() put them.
struct PackedWords {
  const BFloat16* panel;

  WordPair at(std::size_t k, int pair) const {
    return load_words(panel + k * matrix_columns + 2 * word_elements * static_cast<std::size_t>(pair));
  }
};

// Words of rows as they are stored. The last row stands for those that there are not: what becomes of them is
// not stored.
template <int Pairs>
struct StoredWords {
  const BFloat16* row[2 * Pairs];

  StoredWords(const BFloat16* rows, std::size_t stride, std::size_t count) {
    for (std::size_t r = 0; r < 2 * Pairs; ++r) row[r] = rows + (r < count ? r : count - 1) * stride;
  }
  WordPair at(std::size_t k, int pair) const { return load_words(row[2 * pair] + k, row[2 * pair + 1] + k); }
};

template <int RowPairs>
struct MatrixTile {
  MatrixSums sums[RowPairs][column_pairs];

  // The products of elements [k, k + word_elements).
  template <class Words>
  [[gnu::always_inline]] void add(const StoredWords<RowPairs>& x, std::size_t x_k, const Words& w,
                                  std::size_t w_k) {
    WordPair rows[RowPairs];
    for (int p = 0; p < RowPairs; ++p) rows[p] = x.at(x_k, p);
    for (int c = 0; c < column_pairs; ++c) {
      const WordPair columns = w.at(w_k, c);
      for (int p = 0; p < RowPairs; ++p) sums[p][c] = multiply(sums[p][c], rows[p], columns);
    }
  }
};

template <int RowPairs>
[[gnu::always_inline]] inline void run(MatrixTile<RowPairs>& tile, const StoredWords<RowPairs>& x,
                                       const PackedWords& w, std::size_t depth) {
  for (std::size_t k = 0; k < depth; k += word_elements) tile.add(x, k, w, k);  // both end in zeros
}
template <int RowPairs>
[[gnu::always_inline]] inline void run(MatrixTile<RowPairs>& tile, const StoredWords<RowPairs>& x,
                                       const StoredWords<column_pairs>& w, std::size_t depth) {
  std::size_t k = 0;
  for (; k + word_elements <= depth; k += word_elements) tile.add(x, k, w, k);
  if (k < depth) {  // x ends in zeros, W does not
    BFloat16 ends[matrix_columns][word_elements] = {};
    for (std::size_t c = 0; c < matrix_columns; ++c) {
      for (std::size_t i = 0; k + i < depth; ++i) ends[c][i] = w.row[c][k + i];
    }
    tile.add(x, k, StoredWords<column_pairs>(ends[0], word_elements, matrix_columns), 0);
  }
}

// `rows` <= 2 * RowPairs rows of x with n columns of W.
template <int RowPairs, class Words>
void multiply_tile(const BFloat16* x, std::size_t x_stride, std::size_t rows, const Words& w, std::size_t n,
                   std::size_t depth, bool accumulate, float* sums) {
  if constexpr (RowPairs > 1) {
    if (rows <= 2 * (RowPairs - 1))
      return multiply_tile<RowPairs - 1>(x, x_stride, rows, w, n, depth, accumulate, sums);
  }
  MatrixTile<RowPairs> tile;
  for (int p = 0; p < RowPairs; ++p) {
    for (int c = 0; c < column_pairs; ++c) tile.sums[p][c] = zero_matrix_sums();
  }
  run(tile, StoredWords<RowPairs>(x, x_stride, rows), w, depth);
  float block[2 * RowPairs][matrix_columns];
  for (int p = 0; p < RowPairs; ++p) {
    for (int c = 0; c < column_pairs; c += 2)
      store_rows(tile.sums[p][c], tile.sums[p][c + 1], &block[2 * p][2 * c], &block[2 * p + 1][2 * c]);
  }
  for (std::size_t r = 0; r < rows; ++r) {
    float* out = sums + r * panel_rows;
    for (std::size_t c = 0; c < n; ++c) out[c] = (accumulate ? out[c] : 0.0F) + block[r][c];
  }
}

void multiply(const BFloat16* x, std::size_t x_stride, std::size_t m, const BFloat16* w, std::size_t w_stride,
              std::size_t n, std::size_t depth, bool accumulate, float* sums, BFloat16* panel,
              const BFloat16*) {
  for (std::size_t c = 0; c < n; c += matrix_columns) {
    const BFloat16* rows_of_w = w + c * w_stride;
    const std::size_t count = n - c < matrix_columns ? n - c : matrix_columns;
    if (m <= matrix_tile_rows) {
      multiply_tile<most_row_pairs>(x, x_stride, m, StoredWords<column_pairs>(rows_of_w, w_stride, count),
                                    count, depth, accumulate, sums + c);
      continue;
    }
    pack(rows_of_w, w_stride, count, depth, panel);
    for (std::size_t r = 0; r < m; r += matrix_tile_rows) {
      const std::size_t rows = m - r < matrix_tile_rows ? m - r : matrix_tile_rows;
      multiply_tile<most_row_pairs>(x + r * x_stride, x_stride, rows, PackedWords{panel}, count, depth,
                                    accumulate, sums + r * panel_rows + c);
    }
  }
}

}  // namespace
}  // namespace internvl::INTERNVL_ISA
