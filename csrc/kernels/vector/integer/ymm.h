// Sums and bytes in 256 bits: what the avx2 and avx_vnni sets have in common. Included by their headers of
// integer/.
#pragma once

#include "kernels/vector/integer/avx2_shared.h"

namespace internvl::INTERNVL_ISA {

constexpr std::size_t sum_lanes = 8;

struct Int32Vector {
  __m256i value;
};
struct Int8Vector {
  __m256i value;
};

inline Int32Vector broadcast_sum(std::int32_t x) { return {_mm256_set1_epi32(x)}; }
inline Int32Vector load_sums(const std::int32_t* p) { return {load_32_bytes(p)}; }
inline void store_sums(std::int32_t* p, Int32Vector v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v.value);
}
inline Int8Vector load_int8(const std::int8_t* p) { return {load_32_bytes(p)}; }
inline Int8Vector broadcast_four(const std::int8_t* p) { return {broadcast_4_bytes(p)}; }

using ColumnFloats = FloatVector;
inline ColumnFloats broadcast_columns(float x) { return broadcast(x); }
inline ColumnFloats load_columns(const float* p) { return load(p); }
inline void store_columns(float* p, ColumnFloats v) { store(p, v); }
inline ColumnFloats to_float(Int32Vector v) { return {_mm256_cvtepi32_ps(v.value)}; }

// Words are brought in order while they are packed: half as many.
[[gnu::always_inline]] inline ByteColumnWords load_int4_column_words(const std::uint8_t* p,
                                                                     std::size_t row_bytes) {
  __m256i rows[4];
  const std::uint8_t* fifth = p + 4 * row_bytes;
  for (std::size_t i = 0; i < 4; ++i) rows[i] = load_two_16_bytes(p + i * row_bytes, fifth + i * row_bytes);
  __m256i packed[4];
  transpose_fours(rows, packed);
  ByteColumnWords words;
  const __m256i mask = _mm256_set1_epi8(0x0F);
  for (int i = 0; i < 4; ++i) {
    const __m256i biased = _mm256_xor_si256(packed[i], _mm256_set1_epi8(-0x78));
    words.word[i] = _mm256_and_si256(biased, mask);
    words.word[i + 4] = _mm256_and_si256(_mm256_srli_epi16(biased, 4), mask);
  }
  return words;
}

constexpr std::size_t nibble_rows = 8;
inline void store_nibbles(const std::uint8_t* rows, std::size_t row_bytes, std::int8_t* out,
                          std::size_t out_stride) {
  const ByteColumnWords words = load_int4_column_words(rows, row_bytes);
  for (std::size_t i = 0; i < 8; ++i) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i * out_stride), words.word[i]);
  }
}

}  // namespace internvl::INTERNVL_ISA

#include "kernels/vector/integer/eight_column_words.h"
