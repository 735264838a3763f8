// Sums of bf16 products by pairs of elements: rows of W are brought into the order in which they are
// multiplied, and every row of x meets them there. Included by the kernel source only.
#pragma once

#include "kernels/matmul/gemm.h"
#include "kernels/matmul/pair_tile.h"
#include "kernels/vector/prefetch.h"

namespace internvl::INTERNVL_ISA {
namespace {

constexpr std::size_t panel_columns = panel_rows;
constexpr std::size_t most_rows = bfloat16_gemm_rows;
// As small as the tiles allow.
constexpr std::size_t few_columns = 16;

// 24 sums, three words of W and one of x of 32 registers.
constexpr int pair_tile_rows = 8;
constexpr int pair_tile_vectors = 3;
static_assert(panel_rows % (pair_lanes * pair_tile_vectors) == 0 && panel_depth % word_row_elements == 0);

// Elements of W that are packed at once where few rows of x meet them: they come and go in the first cache.
constexpr std::size_t few_depth = 128;

// Words of n rows of W: panel [depth / 2, columns], rows and elements that W does not have are 0.
void pack(const BFloat16* w, std::size_t w_stride, std::size_t n, std::size_t columns, std::size_t depth,
          BFloat16* panel, RowsAhead& ahead) {
  for (std::size_t k = 0; k < depth; k += word_row_elements) {
    ahead.prefetch<Cache::second>(columns * word_row_elements * sizeof(BFloat16));
    for (std::size_t c = 0; c < columns; c += pair_lanes) {
      const BFloat16* from = w + c * w_stride + k;
      BFloat16* to = panel + k * columns + 2 * c;
      if (c + pair_lanes <= n && k + word_row_elements <= depth) {
        store_words(from, w_stride, to, 2 * columns);
        continue;
      }
      BFloat16 edge[pair_lanes][word_row_elements] = {};
      for (std::size_t row = 0; row < pair_lanes && c + row < n; ++row) {
        for (std::size_t i = 0; i < word_row_elements && k + i < depth; ++i)
          edge[row][i] = from[row * w_stride + i];
      }
      store_words(edge[0], word_row_elements, to, 2 * columns);
    }
  }
}

// Rows of x and ColumnWords whose sums are in registers at once where few rows of x meet W where it is
// stored: eight sums, eight words and one of x. More rows of x are worth bringing W in order for.
constexpr int stored_rows = 4;
constexpr int stored_groups = 2;
constexpr std::size_t stored_columns = stored_groups * word_columns;

// Rows of x with stored_columns rows of W where these are stored. The next rows of W, which are too much for
// the first cache, are asked into the second.
template <int Rows>
void multiply_stored(const BFloat16* x, std::size_t x_stride, const BFloat16* w, std::size_t w_stride,
                     std::size_t depth, bool accumulate, float* sums) {
  FloatVector sum[Rows][stored_groups];
  for (int r = 0; r < Rows; ++r) {
    for (int g = 0; g < stored_groups; ++g) {
      const float* place =
          sums + static_cast<std::size_t>(r) * panel_rows + static_cast<std::size_t>(g) * lanes;
      sum[r][g] = accumulate ? load(place) : broadcast(0.0F);
    }
  }
  const char* next = reinterpret_cast<const char*>(w + stored_columns * w_stride);
  for (std::size_t k = 0; k < depth; k += word_row_elements) {
    next = prefetch<Cache::second>(next, stored_columns * word_row_elements * sizeof(BFloat16));
    for (int g = 0; g < stored_groups; ++g) {
      const ColumnWords columns =
          load_columns(w + static_cast<std::size_t>(g) * word_columns * w_stride + k, w_stride);
      for (int r = 0; r < Rows; ++r)
        sum[r][g] = add_products(sum[r][g], columns, x + static_cast<std::size_t>(r) * x_stride + k);
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int g = 0; g < stored_groups; ++g) {
      store(sums + static_cast<std::size_t>(r) * panel_rows + static_cast<std::size_t>(g) * lanes, sum[r][g]);
    }
  }
}

// So many rows of x drive from the second cache what was asked for before them. Then the next weights are
// asked for again while the last rows pass, a part every rows_between.
constexpr std::size_t many_rows = 512;
constexpr std::size_t rows_between = 64;

void multiply(const BFloat16* x, std::size_t x_stride, std::size_t m, const BFloat16* w, std::size_t w_stride,
              std::size_t n, std::size_t depth, bool accumulate, float* sums, BFloat16* panel,
              const BFloat16* next) {
  if (m <= stored_rows && n % stored_columns == 0 && depth % word_row_elements == 0) {
    for (std::size_t c = 0; c < n; c += stored_columns) {
      with_count<stored_rows>(m, [&](auto rows) {
        multiply_stored<decltype(rows)::value>(x, x_stride, w + c * w_stride, w_stride, depth, accumulate,
                                               sums + c);
      });
    }
    return;
  }
  const std::size_t vectors = (n + pair_lanes - 1) / pair_lanes;
  const std::size_t columns = vectors * pair_lanes;
  const std::size_t most = m <= bfloat16_few_rows ? few_depth : depth;
  const auto rows_from = [&](const BFloat16* p) {
    return RowsAhead{reinterpret_cast<const char*>(p), w_stride * sizeof(BFloat16), depth * sizeof(BFloat16)};
  };
  const std::size_t late = m >= many_rows ? (m - many_rows / 2) / rows_between * rows_between : m;
  RowsAhead while_packing = rows_from(next);
  RowsAhead while_multiplying = rows_from(next);
  constexpr std::size_t line = 64;
  const std::size_t lines = (depth * sizeof(BFloat16) + line - 1) / line * n;
  const std::size_t part = late < m ? lines / ((m - late + rows_between - 1) / rows_between) + 1 : 0;
  for (std::size_t k = 0; k < depth; k += most) {
    const std::size_t count = depth - k < most ? depth - k : most;
    pack(w + k, w_stride, n, columns, count, panel, while_packing);
    // x ends in zeros, as the panel does.
    for (std::size_t r = 0; r < m; r += rows_between) {
      for (std::size_t i = 0; i < (r >= late ? part : 0); ++i)
        while_multiplying.prefetch<Cache::second>(line);
      multiply_pairs<pair_tile_rows, pair_tile_vectors>(
          x + r * x_stride + k, x_stride, m - r < rows_between ? m - r : rows_between, {panel, columns},
          vectors, (count + 1) / 2, accumulate || k > 0, sums + r * panel_rows, panel_rows);
    }
  }
}

}  // namespace
}  // namespace internvl::INTERNVL_ISA
