// Products of pairs of bf16 elements, under one interface for every instruction set that has no products of
// matrices (those are in bfloat16_matrix_vector.h).
//
//   PairWords              a word, two neighbouring elements of a row, for each of pair_lanes columns;
//                          load_words(p), broadcast_word(p): the same for all columns
//   PairSums               as many fp32 sums; zero_pair_sums(), load_pair_sums(p), store_pair_sums(p, v)
//   dot(sums, a, b)        adds to every lane the products of its words: the second elements', then the first
//   ColumnWords            eight words of each of eight columns, which lie as rows `stride` elements apart:
//                          load_columns(rows, stride); add_products(sum, columns, x) adds to the eight sums,
//                          as dot() does, their products with eight words at x
//   store_words(rows, stride, out, out_stride)    eight words of each of pair_lanes columns into a panel:
//                          first those of all columns, beside each other, then the next, out_stride elements
//                          further on
//
// avx512_bf16 takes subnormal numbers as 0. Its instruction is inline assembly, around which GCC 12 does not
// spill the sums.
//
// Included by kernel sources only.
#pragma once

#include "kernels/vector/float/vector.h"
#if defined(INTERNVL_AVX512_BF16)
#include "kernels/vector/integer/avx2_shared.h"
#endif

namespace internvl::INTERNVL_ISA {

// Columns of a ColumnWords, and elements of each.
constexpr std::size_t word_columns = 8;
constexpr std::size_t word_row_elements = 16;

#if defined(INTERNVL_AVX512_BF16)

constexpr std::size_t pair_lanes = 16;

struct PairWords {
  __m512i value;
};
struct PairSums {
  __m512 value;
};

inline PairWords load_words(const BFloat16* p) { return {_mm512_loadu_si512(p)}; }
inline PairWords broadcast_word(const BFloat16* p) {
  std::int32_t word = 0;
  __builtin_memcpy(&word, p, sizeof(word));
  return {_mm512_set1_epi32(word)};
}
inline PairSums zero_pair_sums() { return {_mm512_setzero_ps()}; }
inline PairSums load_pair_sums(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store_pair_sums(float* p, PairSums v) { _mm512_storeu_ps(p, v.value); }

[[gnu::always_inline]] inline PairSums dot(PairSums sum, PairWords a, PairWords b) {
#if defined(INTERNVL_EMULATED_AVX512)
  BFloat16 as[32];
  BFloat16 bs[32];
  float sums[16];
  __builtin_memcpy(as, &a, sizeof(as));
  __builtin_memcpy(bs, &b, sizeof(bs));
  __builtin_memcpy(sums, &sum, sizeof(sums));
  const auto wide = [](BFloat16 x) {
    const std::uint32_t bits = static_cast<std::uint32_t>(x.bits) << 16U;
    float value = 0;
    __builtin_memcpy(&value, &bits, sizeof(value));
    return value;
  };
  for (int i = 0; i < 16; ++i) {
    sums[i] += wide(as[2 * i + 1]) * wide(bs[2 * i + 1]);
    sums[i] += wide(as[2 * i]) * wide(bs[2 * i]);
  }
  __builtin_memcpy(&sum, sums, sizeof(sums));
#else
  asm("vdpbf16ps %[b], %[a], %[sum]" : [sum] "+v"(sum.value) : [a] "v"(a.value), [b] "v"(b.value));
#endif
  return sum;
}

struct ColumnWords {
  __m256i word[word_row_elements / 2];
};

[[gnu::always_inline]] inline ColumnWords load_columns(const BFloat16* rows, std::size_t stride) {
  __m256 r[8];
  for (std::size_t i = 0; i < 8; ++i) r[i] = _mm256_castsi256_ps(load_32_bytes(rows + i * stride));
  transpose_words(r);
  ColumnWords columns;
  for (int i = 0; i < 8; ++i) columns.word[i] = _mm256_castps_si256(r[i]);
  return columns;
}
inline void store_words(const BFloat16* rows, std::size_t stride, BFloat16* out, std::size_t out_stride) {
  const ColumnWords low = load_columns(rows, stride);
  const ColumnWords high = load_columns(rows + 8 * stride, stride);
  for (std::size_t i = 0; i < word_row_elements / 2; ++i) {
    _mm512_storeu_si512(out + i * out_stride,
                        _mm512_inserti64x4(_mm512_castsi256_si512(low.word[i]), high.word[i], 1));
  }
}
[[gnu::always_inline]] inline FloatVector add_products(FloatVector sum, const ColumnWords& columns,
                                                       const BFloat16* x) {
  for (std::size_t i = 0; i < word_row_elements / 2; ++i) {
#if defined(INTERNVL_EMULATED_AVX512)
    const PairSums wide = dot({_mm512_castps256_ps512(sum.value)}, {_mm512_castsi256_si512(columns.word[i])},
                              broadcast_word(x + 2 * i));
    sum.value = _mm512_castps512_ps256(wide.value);
#else
    const __m256i word = broadcast_4_bytes(reinterpret_cast<const std::int8_t*>(x + 2 * i));
    asm("vdpbf16ps %[b], %[a], %[sum]" : [sum] "+v"(sum.value) : [a] "v"(columns.word[i]), [b] "v"(word));
#endif
  }
  return sum;
}

#else

constexpr std::size_t pair_lanes = lanes;

struct PairWords {
  FloatVector first, second;
};
using PairSums = FloatVector;

inline PairWords load_words(const BFloat16* p) {
  BFloat16 first[lanes];
  BFloat16 second[lanes];
  for (std::size_t i = 0; i < lanes; ++i) {
    first[i] = p[2 * i];
    second[i] = p[2 * i + 1];
  }
  return {load(first), load(second)};
}
inline PairWords broadcast_word(const BFloat16* p) {
  BFloat16 word[2 * lanes];
  for (std::size_t i = 0; i < 2 * lanes; ++i) word[i] = p[i % 2];
  return load_words(word);
}
inline PairSums zero_pair_sums() { return broadcast(0.0F); }
inline PairSums load_pair_sums(const float* p) { return load(p); }
inline void store_pair_sums(float* p, PairSums v) { store(p, v); }
inline PairSums dot(PairSums sum, PairWords a, PairWords b) {
  return fma(a.first, b.first, fma(a.second, b.second, sum));
}

inline void store_words(const BFloat16* rows, std::size_t stride, BFloat16* out, std::size_t out_stride) {
  for (std::size_t row = 0; row < pair_lanes; ++row) {
    for (std::size_t i = 0; i < word_row_elements; ++i) {
      out[i / 2 * out_stride + 2 * row + i % 2] = rows[row * stride + i];
    }
  }
}

struct ColumnWords {
  PairWords word[word_row_elements / 2];
};

inline ColumnWords load_columns(const BFloat16* rows, std::size_t stride) {
  BFloat16 words[word_columns * word_row_elements];
  store_words(rows, stride, words, 2 * word_columns);
  ColumnWords columns;
  for (std::size_t i = 0; i < word_row_elements / 2; ++i)
    columns.word[i] = load_words(words + 2 * word_columns * i);
  return columns;
}
inline FloatVector add_products(FloatVector sum, const ColumnWords& columns, const BFloat16* x) {
  for (std::size_t i = 0; i < word_row_elements / 2; ++i)
    sum = dot(sum, columns.word[i], broadcast_word(x + 2 * i));
  return sum;
}

#endif

}  // namespace internvl::INTERNVL_ISA
