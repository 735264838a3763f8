// Sums of bf16 products in tiles. Where many rows of x meet W, rows of W are brought into the order of words;
// where few do, W is multiplied where it is stored, and x is brought into that order. Every sum is taken in
// the same order either way. Included by the kernel source only.
#pragma once

#include "kernels/matmul/gemm.h"
#include "kernels/matmul/tile_product.h"
#include "kernels/vector/bfloat16/vector.h"
#include "kernels/vector/prefetch.h"

namespace internvl::INTERNVL_ISA {
namespace {

// Columns of a panel and the rows that meet it: both panels of bf16, 192 KB and 1 MB of rows of 1024
// elements, stay in a second cache of 2 MB.
constexpr std::size_t panel_columns = 2 * panel_rows;
constexpr std::size_t most_rows = bfloat16_gemm_rows / 2;
// Few rows: 16 rows of W for each of two tiles of sums.
constexpr std::size_t few_columns = 2 * tile_side;

constexpr std::size_t tile_elements = tile_bytes / sizeof(BFloat16);
// Elements of a tile, and those of k that 32 columns fill the first cache with.
constexpr std::size_t elements_of_a_tile = tile_side * tile_elements;
constexpr std::size_t near_depth = 512;
static_assert(bfloat16_row_step % tile_elements == 0 && pair_lanes == tile_side);
static_assert(near_depth % tile_elements == 0 && panel_depth % near_depth == 0);
static_assert(panel_columns * panel_depth * sizeof(BFloat16) <= panel_elements * sizeof(float));

constexpr std::size_t steps_of(std::size_t depth) { return (depth + tile_elements - 1) / tile_elements; }

// store_words() of the first `rows` rows and `elements` elements of each; the others are 0.
void store_edge_words(const BFloat16* from, std::size_t stride, std::size_t rows, std::size_t elements,
                      BFloat16* out, std::size_t out_stride) {
  BFloat16 edge[pair_lanes][word_row_elements] = {};
  for (std::size_t row = 0; row < pair_lanes && row < rows; ++row) {
    for (std::size_t i = 0; i < word_row_elements && i < elements; ++i) edge[row][i] = from[row * stride + i];
  }
  store_words(edge[0], word_row_elements, out, out_stride);
}

// Tiles of words of n rows of W: panel [n / 16, steps, 16, 16, 2]. What W does not have is 0.
void pack_tiles(const BFloat16* w, std::size_t w_stride, std::size_t n, std::size_t depth, BFloat16* panel) {
  RowsAhead ahead{reinterpret_cast<const char*>(w + n * w_stride), w_stride * sizeof(BFloat16),
                  depth * sizeof(BFloat16)};
  for (std::size_t c = 0; c < n; c += tile_side) {
    const BFloat16* rows = w + c * w_stride;
    for (std::size_t k = 0; k < steps_of(depth) * tile_elements; k += word_row_elements) {
      ahead.prefetch<Cache::second>(tile_side * word_row_elements * sizeof(BFloat16));
      if (c + tile_side <= n && k + word_row_elements <= depth) {
        store_words(rows + k, w_stride, panel, 2 * tile_side);
      } else {
        store_edge_words(rows + k, w_stride, n - c, k < depth ? depth - k : 0, panel, 2 * tile_side);
      }
      panel += tile_side * word_row_elements;
    }
  }
}

void multiply_many(const BFloat16* x, std::size_t x_stride, std::size_t m, const BFloat16* w,
                   std::size_t w_stride, std::size_t n, std::size_t depth, bool accumulate, float* sums,
                   BFloat16* panel) {
  pack_tiles(w, w_stride, n, depth, panel);
  const std::size_t steps = steps_of(depth);
  const TilePanel all{panel, steps * elements_of_a_tile * sizeof(BFloat16)};
  constexpr std::size_t near_steps = near_depth / tile_elements;
  for (std::size_t step = 0; step < steps; step += near_steps) {
    multiply_tiles<BFloat16Products>(
        x + step * tile_elements, x_stride, m, {panel + step * elements_of_a_tile, all.column_bytes}, n,
        steps - step < near_steps ? steps - step : near_steps, accumulate || step > 0, sums, panel_columns);
  }
}

// x in tiles of words [steps, 16, 16, 2], a row of x in a column. What stands in the columns behind the last
// row becomes nothing that is read.
void pack_few(const BFloat16* x, std::size_t x_stride, std::size_t m, std::size_t steps, BFloat16* words) {
  constexpr std::size_t word = 2;
  constexpr std::size_t single_rows = 4;
  if (m > single_rows) {
    for (std::size_t k = 0; k < steps * tile_elements; k += word_row_elements)
      store_words(x + k, x_stride, words + k * tile_side, word * tile_side);
    return;
  }
  for (std::size_t r = 0; r < m; ++r) {
    for (std::size_t k = 0; k < steps * tile_elements; k += word)
      __builtin_memcpy(words + k * tile_side + word * r, x + r * x_stride + k, word * sizeof(BFloat16));
  }
}

// Groups of 16 rows of W, which are the rows of the tiles, with the words of x.
template <int Groups>
void multiply_stored(const BFloat16* w, std::size_t w_stride, const BFloat16* words, std::size_t m,
                     std::size_t steps, RowsAhead& ahead, bool accumulate, float* sums) {
  static_assert(Groups <= 2);
  alignas(64) float block[Groups][tile_side][tile_side];
  const auto each = [&](auto function) {
    for (std::size_t g = 0; g < Groups; ++g) {
      for (std::size_t c = 0; c < tile_side; ++c) {
        for (std::size_t r = 0; r < m; ++r)
          function(block[g][c][r], sums[r * panel_columns + g * tile_side + c]);
      }
    }
  };
  if (accumulate) {
    __builtin_memset(block, 0, sizeof(block));
    each([](float& here, float sum) { here = sum; });
    load_tile<0>(block[0], tile_bytes);
    if constexpr (Groups == 2) load_tile<1>(block[1], tile_bytes);
  } else {
    zero_tile<0>();
    if constexpr (Groups == 2) zero_tile<1>();
  }
  for (std::size_t step = 0; step < steps; ++step) {
    ahead.prefetch<Cache::second>(Groups * tile_side * tile_bytes);
    load_tile<6>(words, tile_bytes);
    load_tile<4>(w, w_stride * sizeof(BFloat16));
    BFloat16Products::add<0, 4, 6>();
    if constexpr (Groups == 2) {
      load_tile<5>(w + tile_side * w_stride, w_stride * sizeof(BFloat16));
      BFloat16Products::add<1, 5, 6>();
    }
    words += elements_of_a_tile;
    w += tile_elements;
  }
  store_tile<0>(block[0], tile_bytes);
  if constexpr (Groups == 2) store_tile<1>(block[1], tile_bytes);
  each([](float here, float& sum) { sum = here; });
}

void multiply_few(const BFloat16* x, std::size_t x_stride, std::size_t m, const BFloat16* w,
                  std::size_t w_stride, std::size_t n, std::size_t depth, bool accumulate, float* sums,
                  BFloat16* panel) {
  const std::size_t steps = steps_of(depth);
  BFloat16* const words = panel;
  BFloat16* const edge = panel + steps * elements_of_a_tile;
  pack_few(x, x_stride, m, steps, words);
  RowsAhead ahead{reinterpret_cast<const char*>(w + n * w_stride), w_stride * sizeof(BFloat16),
                  depth * sizeof(BFloat16)};
  for (std::size_t c = 0; c < n; c += few_columns) {
    const BFloat16* rows = w + c * w_stride;
    std::size_t stride = w_stride;
    const std::size_t count = n - c < few_columns ? n - c : few_columns;
    if (count % tile_side != 0 || depth % tile_elements != 0) {
      stride = steps * tile_elements;
      for (std::size_t row = 0; row < few_columns; ++row) {
        BFloat16* const to = edge + row * stride;
        const std::size_t known = row < count ? depth : 0;
        __builtin_memcpy(to, rows + (row < count ? row : 0) * w_stride, known * sizeof(BFloat16));
        __builtin_memset(to + known, 0, (stride - known) * sizeof(BFloat16));
      }
      rows = edge;
    }
    if (count > tile_side) {
      multiply_stored<2>(rows, stride, words, m, steps, ahead, accumulate, sums + c);
    } else {
      multiply_stored<1>(rows, stride, words, m, steps, ahead, accumulate, sums + c);
    }
  }
}

void multiply(const BFloat16* x, std::size_t x_stride, std::size_t m, const BFloat16* w, std::size_t w_stride,
              std::size_t n, std::size_t depth, bool accumulate, float* sums, BFloat16* panel,
              const BFloat16*) {
  const auto kernel = m <= tile_side ? multiply_few : multiply_many;
  kernel(x, x_stride, m, w, w_stride, n, depth, accumulate, sums, panel);
}

}  // namespace
}  // namespace internvl::INTERNVL_ISA
