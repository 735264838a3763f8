// Attention that multiplies in fp32, whatever keys and values are stored as. Included by kernel sources only.
#pragma once

#include "kernels/attention/block_forms.h"
#include "kernels/attention/online_softmax.h"
#include "kernels/vector/prefetch.h"
#include "kernels/vector/with_count.h"

namespace internvl::INTERNVL_ISA {

inline void store_weights(float* p, WideVector v) { store(p, v); }

template <class Stored>
struct FloatArithmetic {
  using Weight = float;
  static constexpr int rows_at_once = attention_tile_rows;
  static constexpr int exponent_degree = 6;
  static constexpr bool converts = !__is_same(Stored, PlainBlock<float>);

  const float* const* queries;
  std::size_t head_dim;
  const std::byte* place;  // of the block, or of what it was converted to
  bool converted = false;
  alignas(64) float memory[converts ? attention_block_elements(most_head_dim) : 1];

  explicit FloatArithmetic(const QueryRows& job)
      : queries(job.queries), head_dim(job.head_dim), place(nullptr) {}

  // Begins with a block whose first `keys` keys are seen by some of `rows` rows. Elements that several groups
  // of rows meet are converted once.
  void begin(const std::byte* block, std::size_t keys, std::size_t rows) {
    place = block;
    converted = converts && rows > static_cast<std::size_t>(rows_at_once);
    if (!converted) return;
    if constexpr (converts) {
      const Stored from(block, head_dim);
      for (std::size_t d = 0; d < head_dim; d += 2) {
        for (std::size_t key = 0; key < keys; key += wide_lanes) {
          store(memory + d * cache_block + key, from.template key<0>(d, key));
          store(memory + (d + 1) * cache_block + key, from.template key<1>(d + 1, key));
        }
      }
      float* const values = memory + head_dim * cache_block;
      for (std::size_t key = 0; key < keys; key += 2) {
        for (std::size_t d = 0; d < from.width; d += wide_lanes) {
          store(values + key * from.width + d, from.template value<0>(key, d));
          store(values + (key + 1) * from.width + d, from.template value<1>(key + 1, d));
        }
      }
      place = reinterpret_cast<const std::byte*>(memory);
    }
  }

  // scores[r, key] = query (row + r) . key, for the first `keys` keys and the end of that vector. As many
  // bytes as the keys have are asked for at `next`, where it is not null.
  template <int Rows>
  void score(std::size_t row, std::size_t keys, float* scores, const char* next) const {
    if (converted) {
      score_block<Rows>(PlainBlock<float>(place, head_dim), row, keys, scores, next);
    } else {
      score_block<Rows>(Stored(place, head_dim), row, keys, scores, next);
    }
  }

  // values[r] = values[r] * correction[r] + sum over keys of weights[r, key] * value[key].
  template <int Rows>
  void add_values(const float* weights, const float* corrections, std::size_t keys, float* values,
                  const char* next) const {
    if (converted) {
      add_block<Rows>(PlainBlock<float>(place, head_dim), weights, corrections, keys, values, next);
    } else {
      add_block<Rows>(Stored(place, head_dim), weights, corrections, keys, values, next);
    }
  }

 private:
  template <int Rows, class Block>
  void score_block(const Block& block, std::size_t row, std::size_t keys, float* scores,
                   const char* next) const {
    constexpr std::size_t element = sizeof(typename Stored::Element);
    for (std::size_t key = 0; key < keys; key += 2 * wide_lanes) {
      WideVector sum[Rows][2];
      for (int r = 0; r < Rows; ++r) sum[r][0] = sum[r][1] = broadcast_wide(0.0F);
      const auto step = [&](std::size_t d, WideVector left, WideVector right) {
        for (int r = 0; r < Rows; ++r) {
          const WideVector q = broadcast_wide(queries[row + static_cast<std::size_t>(r)][d]);
          sum[r][0] = fma(q, left, sum[r][0]);
          sum[r][1] = fma(q, right, sum[r][1]);
        }
      };
      for (std::size_t d = 0; d < head_dim; d += 2) {
        if (next != nullptr) next = prefetch<Cache::second>(next, 2 * cache_block * element);
        step(d, block.template key<0>(d, key), block.template key<0>(d, key + wide_lanes));
        step(d + 1, block.template key<1>(d + 1, key), block.template key<1>(d + 1, key + wide_lanes));
      }
      next = nullptr;
      for (int r = 0; r < Rows; ++r) {
        float* const out = scores + static_cast<std::size_t>(r) * cache_block + key;
        store(out, sum[r][0]);
        store(out + wide_lanes, sum[r][1]);
      }
    }
  }

  template <int Rows, int Vectors, class Block>
  void add_columns(const Block& block, const float* weights, const float* corrections, std::size_t keys,
                   std::size_t d, float* values, const char* next) const {
    constexpr std::size_t element = sizeof(typename Stored::Element);
    WideVector sum[Rows][Vectors];
    const auto place_of = [&](int r, int v) {
      return values + static_cast<std::size_t>(r) * block.width + d +
             static_cast<std::size_t>(v) * wide_lanes;
    };
    for (int r = 0; r < Rows; ++r) {
      const WideVector correction = broadcast_wide(corrections[r]);
      for (int v = 0; v < Vectors; ++v) sum[r][v] = load_wide(place_of(r, v)) * correction;
    }
    const auto step = [&](std::size_t key, const WideVector(&value)[Vectors]) {
      for (int r = 0; r < Rows; ++r) {
        const WideVector w = broadcast_wide(weights[static_cast<std::size_t>(r) * cache_block + key]);
        for (int v = 0; v < Vectors; ++v) sum[r][v] = fma(w, value[v], sum[r][v]);
      }
    };
    const auto meet = [&]<int Half>(std::size_t key, Count<Half>) {
      WideVector value[Vectors];
      for (int v = 0; v < Vectors; ++v) {
        value[v] = block.template value<Half>(key, d + static_cast<std::size_t>(v) * wide_lanes);
      }
      step(key, value);
    };
    std::size_t key = 0;
    for (; key + 2 <= keys; key += 2) {
      if (next != nullptr) next = prefetch<Cache::second>(next, 2 * block.width * element);
      meet(key, Count<0>{});
      meet(key + 1, Count<1>{});
    }
    if (key < keys) meet(key, Count<0>{});
    for (int r = 0; r < Rows; ++r) {
      for (int v = 0; v < Vectors; ++v) store(place_of(r, v), sum[r][v]);
    }
  }

  template <int Rows, class Block>
  void add_block(const Block& block, const float* weights, const float* corrections, std::size_t keys,
                 float* values, const char* next) const {
    std::size_t d = 0;
    for (; d + 2 * wide_lanes <= block.width; d += 2 * wide_lanes) {
      add_columns<Rows, 2>(block, weights, corrections, keys, d, values, next);
      next = nullptr;
    }
    for (; d < block.width; d += wide_lanes) {
      add_columns<Rows, 1>(block, weights, corrections, keys, d, values, next);
      next = nullptr;
    }
  }
};

}  // namespace internvl::INTERNVL_ISA
