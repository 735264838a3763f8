// What the sets of x86-64 have in common. Included by their headers of integer/.
#pragma once

#include "kernels/vector/x86_intrinsics.h"

namespace internvl::INTERNVL_ISA {

// int4 weights are computed with as 0 to 15.
constexpr int int4_weight_offset = 8;

inline __m256i load_32_bytes(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

// Eight 32-bit words of eight rows, as floats: nothing is computed with them.
inline void transpose_words(__m256 (&r)[8]) {
  __m256 pairs[8];
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  __m256 fours[8];
  for (int i = 0; i < 8; i += 4) {
    fours[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
    fours[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xEE);
    fours[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
    fours[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xEE);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
    r[i + 4] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
  }
}

inline void transpose(FloatVector (&rows)[8]) {
  __m256 r[8];
  for (int i = 0; i < 8; ++i) r[i] = rows[i].value;
  transpose_words(r);
  for (int i = 0; i < 8; ++i) rows[i].value = r[i];
}

// The 32-bit words of eight rows of 32 bytes, those of all rows beside each other.
inline void store_words_transposed(const std::int8_t* rows, std::size_t stride, std::int8_t* out,
                                   std::size_t out_stride) {
  __m256 r[8];
  for (std::size_t i = 0; i < 8; ++i) r[i] = _mm256_castsi256_ps(load_32_bytes(rows + i * stride));
  transpose_words(r);
  for (std::size_t i = 0; i < 8; ++i) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i * out_stride), _mm256_castps_si256(r[i]));
  }
}

// 32 elements of eight rows. Rows i and i + 4 lie side by side in low[i], their first sixteen elements, and
// high[i], the others.
struct ByteColumns {
  __m256i low[4];
  __m256i high[4];
};

inline __m256i load_two_16_bytes(const void* low, const void* high) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(low))),
                                 _mm_loadu_si128(static_cast<const __m128i*>(high)), 1);
}

// int8, each combined with `flip` by exclusive or.
[[gnu::always_inline]] inline ByteColumns load_byte_columns(const std::int8_t* p, std::size_t row_bytes,
                                                            char flip) {
  ByteColumns columns;
  const __m256i flips = _mm256_set1_epi8(flip);
  const std::int8_t* fifth = p + 4 * row_bytes;
  for (std::size_t i = 0; i < 4; ++i) {
    const std::int8_t* row = p + i * row_bytes;
    const std::int8_t* other = fifth + i * row_bytes;
    columns.low[i] = _mm256_xor_si256(load_two_16_bytes(row, other), flips);
    columns.high[i] = _mm256_xor_si256(load_two_16_bytes(row + 16, other + 16), flips);
  }
  return columns;
}

[[gnu::always_inline]] inline ByteColumns load_int4_columns(const std::uint8_t* p, std::size_t row_bytes) {
  ByteColumns columns;
  const __m256i mask = _mm256_set1_epi8(0x0F);
  const std::uint8_t* fifth = p + 4 * row_bytes;
  for (std::size_t i = 0; i < 4; ++i) {
    const __m256i bytes = load_two_16_bytes(p + i * row_bytes, fifth + i * row_bytes);
    // Two's complement to 0 ... 15: the sign bit is turned over.
    const __m256i biased = _mm256_xor_si256(bytes, _mm256_set1_epi8(-0x78));
    columns.low[i] = _mm256_and_si256(biased, mask);
    columns.high[i] = _mm256_and_si256(_mm256_srli_epi16(biased, 4), mask);
  }
  return columns;
}

// word[j]: elements 4 j to 4 j + 3 of each of the eight rows.
struct ByteColumnWords {
  __m256i word[8];
};

// Four rows of four words, in both halves of the registers.
inline void transpose_fours(const __m256i (&rows)[4], __m256i* out) {
  const __m256i low_pairs[2] = {_mm256_unpacklo_epi32(rows[0], rows[1]),
                                _mm256_unpacklo_epi32(rows[2], rows[3])};
  const __m256i high_pairs[2] = {_mm256_unpackhi_epi32(rows[0], rows[1]),
                                 _mm256_unpackhi_epi32(rows[2], rows[3])};
  out[0] = _mm256_unpacklo_epi64(low_pairs[0], low_pairs[1]);
  out[1] = _mm256_unpackhi_epi64(low_pairs[0], low_pairs[1]);
  out[2] = _mm256_unpacklo_epi64(high_pairs[0], high_pairs[1]);
  out[3] = _mm256_unpackhi_epi64(high_pairs[0], high_pairs[1]);
}

[[gnu::always_inline]] inline ByteColumnWords words_of(const ByteColumns& columns) {
  ByteColumnWords words;
  transpose_fours(columns.low, words.word);
  transpose_fours(columns.high, words.word + 4);
  return words;
}
// From four sums for each of the rows of a pair to eight sums, one a row.
inline FloatVector row_sums(const __m256i (&quarters)[4], int offset) {
  const __m256i sums = _mm256_hadd_epi32(_mm256_hadd_epi32(quarters[0], quarters[1]),
                                         _mm256_hadd_epi32(quarters[2], quarters[3]));
  return {_mm256_cvtepi32_ps(_mm256_add_epi32(sums, _mm256_set1_epi32(offset)))};
}

inline __m256i broadcast_4_bytes(const std::int8_t* p) {
  std::int32_t four = 0;
  __builtin_memcpy(&four, p, sizeof(four));
  return _mm256_set1_epi32(four);
}

inline __m256i broadcast_16_bytes(const std::int8_t* p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

inline __m256i rounded(const FloatVector (&v)[4]) {
  const __m256i low = _mm256_packs_epi32(_mm256_cvtps_epi32(v[0].value), _mm256_cvtps_epi32(v[1].value));
  const __m256i high = _mm256_packs_epi32(_mm256_cvtps_epi32(v[2].value), _mm256_cvtps_epi32(v[3].value));
  // Packing works within halves of a register.
  return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high),
                                     _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
inline void store_rounded(std::int8_t* out, const FloatVector (&v)[4]) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), rounded(v));
}
inline void store_rounded_split(std::int8_t* out, const FloatVector (&v)[4]) {
  const __m256i even_then_odd =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
  const __m256i split = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(rounded(v), even_then_odd), 0xD8);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), split);
}

}  // namespace internvl::INTERNVL_ISA
