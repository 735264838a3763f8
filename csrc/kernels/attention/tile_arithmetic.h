// Attention that multiplies bf16 in tiles (amx). Included by kernel sources only.
//
// Words of keys and of values are multiplied where they lie. A row goes through the same operations whatever
// rows are taken with it: all keys of a block are multiplied, those that it does not see by 0, and a tile has
// 16 rows, of which those behind the last one are not read.
#pragma once

#include "kernels/attention/block_forms.h"
#include "kernels/attention/online_softmax.h"
#include "kernels/matmul/tile_product.h"
#include "kernels/vector/bfloat16/rounding.h"
#include "kernels/vector/prefetch.h"

namespace internvl::INTERNVL_ISA {

inline void store_weights(BFloat16* p, WideVector v) { store_rounded(p, v); }

template <class Stored>
struct TileArithmetic {
  using Weight = BFloat16;
  using Element = Stored::Element;
  static constexpr int rows_at_once = tile_side;
  static constexpr int exponent_degree = 4;  // weights keep 8 bits
  static constexpr bool converts = !__is_same(Element, BFloat16);
  // Elements of a row of a tile, and of all of it.
  static constexpr std::size_t depth = tile_bytes / sizeof(BFloat16);
  static constexpr std::size_t key_tiles = cache_block / tile_side;
  static constexpr std::size_t value_steps = cache_block / depth;
  static_assert(key_tiles == 4 && value_steps == 2);

  std::size_t head_dim;
  std::size_t width;
  std::size_t steps;  // tiles of a row of a query
  const BFloat16* keys = nullptr;
  const BFloat16* last_keys = nullptr;  // of the last of those steps
  const BFloat16* values = nullptr;
  // The last rows are read beside fewer than 16.
  alignas(64) BFloat16 queries[(attention_rows + tile_side) * most_head_dim];
  alignas(64) BFloat16 memory[attention_block_elements(most_head_dim)];
  alignas(64) BFloat16 end_of_keys[depth * cache_block];

  explicit TileArithmetic(const QueryRows& job)
      : head_dim(job.head_dim), width(value_width(job.head_dim)), steps((job.head_dim + depth - 1) / depth) {
    for (std::size_t r = 0; r < job.rows; ++r) {
      BFloat16* const row = queries + r * steps * depth;
      convert_row(job.queries[r], head_dim, row);
      for (std::size_t d = head_dim; d < steps * depth; ++d) row[d] = {0};
    }
  }

  void begin(const std::byte* block, std::size_t count, std::size_t) {
    const Stored from(block, head_dim);
    BFloat16* const value_memory = memory + head_dim * cache_block;
    const std::size_t known = (count + 1) / 2 * 2 * width;
    if constexpr (converts) {
      // Integers of eight bits are exact in bf16.
      widen_all(from.keys, head_dim * cache_block, memory);
      widen_all(from.values, known, value_memory);
      keys = memory;
      values = value_memory;
    } else {
      keys = from.keys;
      values = from.values;
    }
    if (count < cache_block) {
      // Values behind the last key may be anything, and 0 times that.
      if constexpr (!converts) __builtin_memcpy(value_memory, from.values, known * sizeof(BFloat16));
      __builtin_memset(value_memory + known, 0, (cache_block * width - known) * sizeof(BFloat16));
      for (std::size_t i = known - 2 * width + 1; count % 2 != 0 && i < known; i += 2) value_memory[i] = {0};
      values = value_memory;
    }
    const std::size_t whole = head_dim / depth * depth;
    last_keys = keys + whole * cache_block;
    if (whole < head_dim) {
      const std::size_t rest = (head_dim - whole) * cache_block;
      __builtin_memcpy(end_of_keys, last_keys, rest * sizeof(BFloat16));
      __builtin_memset(end_of_keys + rest, 0, sizeof(end_of_keys) - rest * sizeof(BFloat16));
      last_keys = end_of_keys;
    } else {
      last_keys -= depth * cache_block;
    }
  }

  // scores [16, cache_block] of queries `row` and following, and all keys.
  template <int Rows>
  void score(std::size_t row, std::size_t, float* scores, const char* next) const {
    constexpr std::size_t stride = 2 * cache_block * sizeof(BFloat16);
    const BFloat16* x = queries + row * steps * depth;
    zero_tile<0>();
    zero_tile<1>();
    zero_tile<2>();
    zero_tile<3>();
    for (std::size_t step = 0; step < steps; ++step) {
      if (next != nullptr) next = prefetch<Cache::second>(next, depth * cache_block * sizeof(Element));
      const BFloat16* words = step + 1 < steps ? keys + step * depth * cache_block : last_keys;
      load_tile<4>(x + step * depth, steps * depth * sizeof(BFloat16));
      load_tile<6>(words, stride);
      BFloat16Products::add<0, 4, 6>();
      load_tile<7>(words + 2 * tile_side, stride);
      BFloat16Products::add<1, 4, 7>();
      load_tile<6>(words + 4 * tile_side, stride);
      BFloat16Products::add<2, 4, 6>();
      load_tile<7>(words + 6 * tile_side, stride);
      BFloat16Products::add<3, 4, 7>();
    }
    store_tile<0>(scores, cache_block * sizeof(float));
    store_tile<1>(scores + tile_side, cache_block * sizeof(float));
    store_tile<2>(scores + 2 * tile_side, cache_block * sizeof(float));
    store_tile<3>(scores + 3 * tile_side, cache_block * sizeof(float));
  }

  // out [Rows, width] = out * corrections + weights . values; `weights` [16, cache_block] of the first `most`
  // keys, in whole vectors.
  template <int Rows>
  void add_values(BFloat16* weights, const float* corrections, std::size_t most, float* out,
                  const char* next) const {
    const std::size_t known = vectors_of(most) * wide_lanes;
    for (std::size_t r = 0; r < Rows && known < cache_block; ++r)
      __builtin_memset(weights + r * cache_block + known, 0, (cache_block - known) * sizeof(BFloat16));
    load_tile<4>(weights, cache_block * sizeof(BFloat16));
    load_tile<5>(weights + depth, cache_block * sizeof(BFloat16));
    alignas(64) float products[tile_side * most_head_dim];
    std::size_t d = 0;
    for (; d + 2 * tile_side <= width; d += 2 * tile_side) {
      if (next != nullptr)
        next = prefetch<Cache::second>(next, 2 * tile_side * cache_block * sizeof(Element));
      add_columns<0>(d, products);
      add_columns<1>(d + tile_side, products);
    }
    if (d < width) add_columns<0>(d, products);
    for (std::size_t r = 0; r < Rows; ++r) {
      const WideVector correction = broadcast_wide(corrections[r]);
      for (std::size_t i = r * width; i < (r + 1) * width; i += wide_lanes)
        store(out + i, fma(load_wide(out + i), correction, load_wide(products + i)));
    }
  }

 private:
  static void widen_all(const std::int8_t* from, std::size_t count, BFloat16* to) {
    for (std::size_t i = 0; i < count; i += 2 * tile_side) store_widened(to + i, from + i);
  }

  template <int Sums>
  [[gnu::always_inline]] void add_columns(std::size_t d, float* products) const {
    const BFloat16* words = values + 2 * d;
    const std::size_t stride = 2 * width * sizeof(BFloat16);
    zero_tile<Sums>();
    load_tile<6>(words, stride);
    BFloat16Products::add<Sums, 4, 6>();
    load_tile<7>(words + depth * width, stride);
    BFloat16Products::add<Sums, 5, 7>();
    store_tile<Sums>(products + d, width * sizeof(float));
  }
};

}  // namespace internvl::INTERNVL_ISA
