// Attention that multiplies pairs of bf16, on the set that does (avx512_bf16). Included by kernel sources
// only.
#pragma once

#include "kernels/attention/block_forms.h"
#include "kernels/attention/online_softmax.h"
#include "kernels/vector/bfloat16/rounding.h"
#include "kernels/vector/prefetch.h"

namespace internvl::INTERNVL_ISA {

inline void store_weights(BFloat16* p, WideVector v) { store_rounded(p, v); }

template <class Stored>
struct PairArithmetic {
  using Weight = BFloat16;
  static constexpr int rows_at_once = 6;  // 24 sums, four words of keys or values and one of a row
  static constexpr int vectors_at_once = 4;
  static constexpr int exponent_degree = 4;  // weights keep 8 bits
  static constexpr bool converts = !__is_same(Stored, PairBlock<BFloat16>);
  static_assert(cache_block % (vectors_at_once * pair_lanes) == 0);

  std::size_t head_dim;
  std::size_t width;
  const BFloat16* keys = nullptr;
  const BFloat16* values = nullptr;
  alignas(64) BFloat16 queries[attention_rows * most_head_dim];
  alignas(64) BFloat16 memory[converts ? attention_block_elements(most_head_dim) : 1];

  explicit PairArithmetic(const QueryRows& job) : head_dim(job.head_dim), width(value_width(job.head_dim)) {
    for (std::size_t r = 0; r < job.rows; ++r) convert_row(job.queries[r], head_dim, queries + r * head_dim);
  }

  void begin(const std::byte* block, std::size_t count, std::size_t) {
    keys = reinterpret_cast<const BFloat16*>(block);
    if constexpr (converts) {
      // Integers of eight bits are exact in bf16.
      const Stored from(block, head_dim);
      widen_all(from.keys, head_dim * cache_block, memory);
      widen_all(from.values, (count + 1) / 2 * 2 * width, memory + head_dim * cache_block);
      keys = memory;
    }
    values = keys + head_dim * cache_block;
  }

  // As in FloatArithmetic.
  template <int Rows>
  void score(std::size_t row, std::size_t count, float* scores, const char* next) const {
    const BFloat16* const first = queries + row * head_dim;
    if (count > cache_block / 2) {
      score_keys<Rows, vectors_at_once>(first, 0, scores, next);
    } else {
      for (std::size_t key = 0; key < count; key += pair_lanes) {
        score_keys<Rows, 1>(first, key, scores, next);
        next = nullptr;
      }
    }
  }

  template <int Rows>
  void add_values(const BFloat16* weights, const float* corrections, std::size_t count, float* out,
                  const char* next) const {
    std::size_t d = 0;
    for (; d + 4 * pair_lanes <= width; d += 4 * pair_lanes) {
      add_columns<Rows, 4>(weights, corrections, count, d, out, next);
      next = nullptr;
    }
    for (; d + 2 * pair_lanes <= width; d += 2 * pair_lanes) {
      add_columns<Rows, 2>(weights, corrections, count, d, out, next);
      next = nullptr;
    }
    for (; d < width; d += pair_lanes) {
      add_columns<Rows, 1>(weights, corrections, count, d, out, next);
      next = nullptr;
    }
  }

 private:
  static void widen_all(const std::int8_t* from, std::size_t count, BFloat16* to) {
    for (std::size_t i = 0; i < count; i += 2 * pair_lanes) store_widened(to + i, from + i);
  }

  template <int Rows, int Vectors>
  void score_keys(const BFloat16* first, std::size_t key, float* scores, const char* next) const {
    PairSums sum[Rows][Vectors];
    for (int r = 0; r < Rows; ++r) {
      for (int v = 0; v < Vectors; ++v) sum[r][v] = zero_pair_sums();
    }
    const BFloat16* words = keys + 2 * key;
    for (std::size_t d = 0; d < head_dim; d += 2) {
      if (next != nullptr)
        next = prefetch<Cache::second>(next, 2 * cache_block * sizeof(typename Stored::Element));
      meet(sum, words, first + d, head_dim);
      words += 2 * cache_block;
    }
    store_sums(sum, scores + key, cache_block);
  }

  template <int Rows, int Vectors>
  void add_columns(const BFloat16* weights, const float* corrections, std::size_t count, std::size_t d,
                   float* out, const char* next) const {
    PairSums sum[Rows][Vectors];
    for (int r = 0; r < Rows; ++r) {
      const WideVector correction = broadcast_wide(corrections[r]);
      for (int v = 0; v < Vectors; ++v) {
        const float* const place =
            out + static_cast<std::size_t>(r) * width + d + static_cast<std::size_t>(v) * pair_lanes;
        sum[r][v] = {(load_wide(place) * correction).value};
      }
    }
    const BFloat16* words = values + 2 * d;
    for (std::size_t key = 0; key + 2 <= count; key += 2) {
      if (next != nullptr) next = prefetch<Cache::second>(next, 2 * width * sizeof(typename Stored::Element));
      meet(sum, words, weights + key, cache_block);
      words += 2 * width;
    }
    if (count % 2 != 0) {
      // The second value of the last pair may be anything.
      constexpr std::size_t elements = std::size_t{2} * Vectors * pair_lanes;
      BFloat16 last[elements];
      for (std::size_t i = 0; i < elements; i += 2) {
        last[i] = words[i];
        last[i + 1] = {0};
      }
      meet(sum, last, weights + count - 1, cache_block);
    }
    store_sums(sum, out + d, width);
  }

  // Adds the products of words of columns with a word of each row.
  template <int Rows, int Vectors>
  [[gnu::always_inline]] static void meet(PairSums (&sum)[Rows][Vectors], const BFloat16* words,
                                          const BFloat16* rows, std::size_t stride) {
    PairWords columns[Vectors];
    for (int v = 0; v < Vectors; ++v)
      columns[v] = load_words(words + static_cast<std::size_t>(v) * 2 * pair_lanes);
    for (int r = 0; r < Rows; ++r) {
      const PairWords row = broadcast_word(rows + static_cast<std::size_t>(r) * stride);
      for (int v = 0; v < Vectors; ++v) sum[r][v] = dot(sum[r][v], columns[v], row);
    }
  }
  template <int Rows, int Vectors>
  [[gnu::always_inline]] static void store_sums(const PairSums (&sum)[Rows][Vectors], float* out,
                                                std::size_t stride) {
    for (int r = 0; r < Rows; ++r) {
      for (int v = 0; v < Vectors; ++v) {
        store_pair_sums(out + static_cast<std::size_t>(r) * stride + static_cast<std::size_t>(v) * pair_lanes,
                        sum[r][v]);
      }
    }
  }
};

}  // namespace internvl::INTERNVL_ISA
