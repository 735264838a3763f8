// Integer arithmetic on AVX-512 F, BW, VL, DQ and VNNI. Included by integer/vector.h, where the interface is
// described.
//
// VPDPBUSD multiplies unsigned by signed bytes and adds four products to 32 bits without saturating between:
// int8 weights are taken as w + 128. This was verified on machines without AVX-512 by emulation (the preset
// `emulated` compiles this source against SIMDe), and natively wherever the unit tests meet such a processor.
#pragma once

#include "kernels/vector/integer/vnni.h"

namespace internvl::INTERNVL_ISA {

constexpr std::size_t sum_lanes = 16;
// Rows of x and vectors of columns of W whose sums a GEMM keeps in registers at once: 24 of 32 registers, for
// int4 twelve sums of a block and twelve of all blocks.
constexpr int row_tile_rows = 6;
constexpr int row_tile_vectors = 4;
constexpr int block_tile_rows = 6;
constexpr int block_tile_vectors = 2;

struct Int32Vector {
  __m512i value;
};
struct Int8Vector {
  __m512i value;
};
struct Int8Weights {
  __m512i value;  // + 128
};

// sum + the four products of each lane's bytes, `weights` unsigned and `x` signed. Inline assembly because
// GCC 12 copies and spills the sums around the intrinsic, which costs half of the speed; emulation has the
// intrinsic.
[[gnu::always_inline]] inline __m512i add_products(__m512i sum, __m512i weights, __m512i x) {
#if defined(INTERNVL_EMULATED_AVX512)
  return _mm512_dpbusd_epi32(sum, weights, x);
#else
  asm("vpdpbusd %[x], %[weights], %[sum]" : [sum] "+v"(sum) : [weights] "v"(weights), [x] "v"(x));
  return sum;
#endif
}

inline Int32Vector broadcast_sum(std::int32_t x) { return {_mm512_set1_epi32(x)}; }
inline Int32Vector load_sums(const std::int32_t* p) { return {_mm512_loadu_si512(p)}; }
inline void store_sums(std::int32_t* p, Int32Vector v) { _mm512_storeu_si512(p, v.value); }
inline Int8Vector load_int8(const std::int8_t* p) { return {_mm512_loadu_si512(p)}; }
inline Int8Vector broadcast_four(const std::int8_t* p) {
  std::int32_t four = 0;
  __builtin_memcpy(&four, p, sizeof(four));
  return {_mm512_set1_epi32(four)};
}
inline Int8Weights int8_weights(Int8Vector w) { return {_mm512_xor_si512(w.value, _mm512_set1_epi8(-0x80))}; }
[[gnu::always_inline]] inline Int32Vector dot(Int32Vector sum, Int8Weights w, Int8Vector x) {
  return {add_products(sum.value, w.value, x.value)};
}

struct NibbleSums {
  __m512i value;
};
inline NibbleSums begin_nibble_sums(std::int32_t offset) { return {_mm512_set1_epi32(offset)}; }
[[gnu::always_inline]] inline NibbleSums dot_nibbles(NibbleSums sum, Int8Vector w, Int8Vector x) {
  return {add_products(sum.value, w.value, x.value)};
}
inline Int32Vector total(NibbleSums sum, std::int32_t) { return {sum.value}; }

struct ColumnFloats {
  __m512 value;
};
inline ColumnFloats broadcast_columns(float x) { return {_mm512_set1_ps(x)}; }
inline ColumnFloats load_columns(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store_columns(float* p, ColumnFloats v) { _mm512_storeu_ps(p, v.value); }
inline ColumnFloats to_float(Int32Vector v) {
#if defined(INTERNVL_EMULATED_AVX512)  // SIMDe 0.7 does not have this one
  const __m256 low = _mm256_cvtepi32_ps(_mm512_castsi512_si256(v.value));
  const __m256 high = _mm256_cvtepi32_ps(_mm512_extracti64x4_epi64(v.value, 1));
  return {_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1)};
#else
  return {_mm512_cvtepi32_ps(v.value)};
#endif
}
inline ColumnFloats operator*(ColumnFloats a, ColumnFloats b) { return {_mm512_mul_ps(a.value, b.value)}; }
inline ColumnFloats fma(ColumnFloats a, ColumnFloats b, ColumnFloats c) {
  return {_mm512_fmadd_ps(a.value, b.value, c.value)};
}

// The same with the four bytes at x in all lanes.
[[gnu::always_inline]] inline __m512i add_products(__m512i sum, __m512i weights, const std::int8_t* x) {
#if defined(INTERNVL_EMULATED_AVX512)
  return add_products(sum, weights, broadcast_four(x).value);
#else
  asm("vpdpbusd %[x]%{1to16%}, %[weights], %[sum]"
      : [sum] "+v"(sum)
      : [weights] "v"(weights), [x] "m"(*reinterpret_cast<const std::int8_t (*)[4]>(x)));
  return sum;
#endif
}

// Words of sixteen columns: a word of x is read once for all of them.
constexpr std::size_t integer_word_columns = 16;

using WordFloats = ColumnFloats;
inline WordFloats broadcast_word_floats(float x) { return broadcast_columns(x); }
inline WordFloats word_floats(const FloatVector (&eights)[2]) {
  return {_mm512_insertf32x8(_mm512_castps256_ps512(eights[0].value), eights[1].value, 1)};
}
inline void store_word_floats(float* p, WordFloats v) { store_columns(p, v); }

struct WideColumnWords {
  __m512i word[8];
};
using Int8ColumnWords = WideColumnWords;
using Int4ColumnWords = WideColumnWords;

// Four words of sixteen rows, those of all rows beside each other. What is loaded into a part of a register
// as a masked broadcast waits for no unit that shuffles.
[[gnu::always_inline]] inline void load_fours(const void* p, std::size_t row_bytes, __m512i* words) {
  // Else GCC 12 keeps sixteen distances in vector registers over the loop that calls this, and moves each
  // back.
  asm("" : "+r"(row_bytes));
  const char* const quarters[4] = {static_cast<const char*>(p), static_cast<const char*>(p) + 4 * row_bytes,
                                   static_cast<const char*>(p) + 8 * row_bytes,
                                   static_cast<const char*>(p) + 12 * row_bytes};
  __m512i rows[4];
  for (std::size_t i = 0; i < 4; ++i) {
    const auto four = [&](int quarter) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(quarters[quarter] + i * row_bytes));
    };
    rows[i] = _mm512_castsi128_si512(four(0));
    rows[i] = _mm512_mask_broadcast_i32x4(rows[i], 0x00F0, four(1));
    rows[i] = _mm512_mask_broadcast_i32x4(rows[i], 0x0F00, four(2));
    rows[i] = _mm512_mask_broadcast_i32x4(rows[i], 0xF000, four(3));
  }
  const __m512i low_pairs[2] = {_mm512_unpacklo_epi32(rows[0], rows[1]),
                                _mm512_unpacklo_epi32(rows[2], rows[3])};
  const __m512i high_pairs[2] = {_mm512_unpackhi_epi32(rows[0], rows[1]),
                                 _mm512_unpackhi_epi32(rows[2], rows[3])};
  words[0] = _mm512_unpacklo_epi64(low_pairs[0], low_pairs[1]);
  words[1] = _mm512_unpackhi_epi64(low_pairs[0], low_pairs[1]);
  words[2] = _mm512_unpacklo_epi64(high_pairs[0], high_pairs[1]);
  words[3] = _mm512_unpackhi_epi64(high_pairs[0], high_pairs[1]);
}

[[gnu::always_inline]] inline Int8ColumnWords load_int8_column_words(const std::int8_t* p,
                                                                     std::size_t row_bytes) {
  WideColumnWords words;
  load_fours(p, row_bytes, words.word);
  load_fours(p + 16, row_bytes, words.word + 4);
  for (__m512i& word : words.word) word = _mm512_xor_si512(word, _mm512_set1_epi8(-0x80));
  return words;
}
// Words are brought in order while they are packed: half as many.
[[gnu::always_inline]] inline Int4ColumnWords load_int4_column_words(const std::uint8_t* p,
                                                                     std::size_t row_bytes) {
  __m512i packed[4];
  load_fours(p, row_bytes, packed);
  WideColumnWords words;
  const __m512i mask = _mm512_set1_epi8(0x0F);
  for (int i = 0; i < 4; ++i) {
    const __m512i biased = _mm512_xor_si512(packed[i], _mm512_set1_epi8(-0x78));
    words.word[i] = _mm512_and_si512(biased, mask);
    words.word[i + 4] = _mm512_and_si512(_mm512_srli_epi16(biased, 4), mask);
  }
  return words;
}
[[gnu::always_inline]] inline WordFloats dot(const WideColumnWords& w, const std::int8_t* x, int offset) {
  __m512i low = _mm512_set1_epi32(offset);
  __m512i high = _mm512_setzero_si512();
  for (std::size_t j = 0; j < 4; ++j) {
    low = add_products(low, w.word[j], x + 4 * j);
    high = add_products(high, w.word[j + 4], x + 4 * j + 16);
  }
  return to_float(Int32Vector{_mm512_add_epi32(low, high)});
}

constexpr std::size_t nibble_rows = 16;
inline void store_nibbles(const std::uint8_t* rows, std::size_t row_bytes, std::int8_t* out,
                          std::size_t out_stride) {
  const Int4ColumnWords words = load_int4_column_words(rows, row_bytes);
  for (std::size_t i = 0; i < 8; ++i) {
#if defined(INTERNVL_AMX_INT8)  // multiplies signed bytes
    const __m512i word = _mm512_sub_epi8(words.word[i], _mm512_set1_epi8(int4_weight_offset));
#else
    const __m512i word = words.word[i];
#endif
    _mm512_storeu_si512(out + i * out_stride, word);
  }
}

}  // namespace internvl::INTERNVL_ISA

#include "kernels/vector/integer/panel_bytes.h"
