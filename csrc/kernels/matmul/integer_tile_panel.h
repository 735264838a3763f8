// Rows of x with a panel of integer weights, in tiles. Included by the kernel source only.
//
// Of rows with one scale, a tile takes 64 elements of k at once. Of rows in blocks, one that took more than a
// block of 32 would add up sums that have different scales. So tiles of x and of weights have half as many
// bytes there, every block has its own sums, and what the tile unit has computed of four blocks is scaled
// while it computes the next four.
#pragma once

#include "kernels/matmul/integer_gemm.h"
#include "kernels/matmul/tile_product.h"
#include "kernels/vector/integer/vector.h"

namespace internvl::INTERNVL_ISA {

// Bytes of k that a row of a tile of int8 takes: panels are filled up to it.
constexpr std::size_t tile_panel_step = tile_bytes;

// What meets: rows of x from element k on, and a panel of `depth` elements of `count` columns, in tiles of
// words of 16 columns [columns / 16, depth / 4, 16, 4].
struct TilePanelJob {
  QuantisedRows x;
  std::size_t rows;
  std::size_t k;
  std::size_t depth;
  const std::int8_t* panel;
  const float* scales;  // of int4 weights: [depth / 32, integer_panel_columns]
  std::size_t count;

  std::size_t column_bytes() const {
    return (depth + tile_panel_step - 1) / tile_panel_step * tile_panel_step * tile_side;
  }
};

// What stands behind the depth of weights meets zeros of x.
inline void multiply_tile_panel(const TilePanelJob& job, std::int32_t* sums) {
  multiply_tiles<Int8Products>(job.x.values + job.k, job.x.stride, job.rows, {job.panel, job.column_bytes()},
                               job.count, (job.depth + tile_panel_step - 1) / tile_panel_step, job.k != 0,
                               sums, integer_panel_columns);
}

// Tiles 0 to 3 are sums of a block each, 4 and 5 of x, 6 and 7 of weights.
constexpr TileShape block_of_x{most_tile_rows, static_cast<int>(int4_block)};
constexpr TileShape block_of_weights{static_cast<int>(int4_block / 4), most_tile_row_bytes};
inline constexpr TileShapes block_tiles = [] {
  TileShapes shapes = whole_tiles;
  for (const int tile : {4, 5}) shapes.set(tile, block_of_x);
  for (const int tile : {6, 7}) shapes.set(tile, block_of_weights);
  return shapes;
}();

constexpr std::size_t blocks_at_once = 4;
using BlockSums = std::int32_t[blocks_at_once][tile_side][tile_side];

template <int Block>
[[gnu::always_inline]] inline void sum_block(const std::int8_t* x, std::size_t x_stride, const std::int8_t* w,
                                             std::int32_t (&sums)[tile_side][tile_side]) {
  constexpr int x_tile = 4 + Block % 2;
  constexpr int w_tile = 6 + Block % 2;
  load_tile<w_tile, block_of_weights>(w + Block * int4_block * tile_side, tile_bytes);
  load_tile<x_tile, block_of_x>(x + Block * int4_block, x_stride);
  zero_tile<Block>();
  Int8Products::add<Block, x_tile, w_tile>();
  store_tile<Block>(sums, tile_bytes);
}

inline void sum_blocks(const std::int8_t* x, std::size_t x_stride, const std::int8_t* w, std::size_t count,
                       BlockSums& sums) {
  sum_block<0>(x, x_stride, w, sums[0]);
  if (count > 1) sum_block<1>(x, x_stride, w, sums[1]);
  if (count > 2) sum_block<2>(x, x_stride, w, sums[2]);
  if (count > 3) sum_block<3>(x, x_stride, w, sums[3]);
}

// 16 rows with 16 columns: totals [16, integer_panel_columns].
template <class Blocks>
void multiply_blocks(const TilePanelJob& job, std::size_t row, std::size_t column, float* out) {
  const std::size_t blocks = job.depth / int4_block;
  const std::size_t first = job.k / int4_block;
  const std::int8_t* x = job.x.values + row * job.x.stride + job.k;
  const std::int8_t* w = job.panel + column / tile_side * job.column_bytes();
  const float* x_scales = job.x.scales + row * job.x.groups + first;
  const float* w_scales = job.scales + column;
  out += row * integer_panel_columns + column;
  alignas(64) BlockSums sums[2];
  GroupFloats totals[tile_side];
#pragma GCC unroll 16
  for (std::size_t r = 0; r < tile_side; ++r)
    totals[r] = job.k == 0 ? zero_floats() : load_floats(out + r * integer_panel_columns, 0);
  const auto count_from = [&](std::size_t b) {
    return blocks - b < blocks_at_once ? blocks - b : blocks_at_once;
  };
  const auto begin = [&](std::size_t b) {
    if (b < blocks) {
      sum_blocks(x + b * int4_block, job.x.stride, w + b * int4_block * tile_side, count_from(b),
                 sums[b / blocks_at_once % 2]);
    }
  };
  begin(0);
  for (std::size_t b = 0; b < blocks; b += blocks_at_once) {
    begin(b + blocks_at_once);
    const BlockSums& here = sums[b / blocks_at_once % 2];
    const std::size_t count = count_from(b);
    for (std::size_t i = 0; i < count; ++i) {
      const float* column_scales = w_scales + (b + i) * integer_panel_columns;
      const float* row_scale = x_scales + b + i;
#pragma GCC unroll 16
      for (std::size_t r = 0; r < tile_side; ++r) {
        const GroupFloats scale = Blocks::scale(row_floats(row_scale + r * job.x.groups, 0), column_scales);
        totals[r] = fma(to_float(load_sums(here[i][r])), scale, totals[r]);
      }
    }
  }
#pragma GCC unroll 16
  for (std::size_t r = 0; r < tile_side; ++r) store_floats(out + r * integer_panel_columns, 0, totals[r]);
}

template <class Blocks>
void multiply_tile_blocks(const TilePanelJob& job, float* totals) {
  const TilesAs blocks(block_tiles);
  for (std::size_t column = 0; column < job.count; column += tile_side) {
    for (std::size_t row = 0; row < job.rows; row += tile_side)
      multiply_blocks<Blocks>(job, row, column, totals);
  }
}

}  // namespace internvl::INTERNVL_ISA
