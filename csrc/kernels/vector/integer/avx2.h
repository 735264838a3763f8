// Integer arithmetic on AVX2. Included by integer/vector.h, where the interface is described.
//
// In a GEMM, int8 weights are widened to 16 bits when their panel is unpacked, and activations before a row
// of them meets it: VPMADDWD then takes half as many multiplications as the way through bytes and signs
// below.
//
// VPMADDUBSW multiplies unsigned by signed bytes and adds two products in 16 bits, with saturation. Both uses
// below stay clear of it: magnitudes of at most 128 times activations of at most 127, twice, are 32512; and
// sixteen products of at most 15 * 127 are 30480.
#pragma once

#include "kernels/vector/integer/ymm.h"

namespace internvl::INTERNVL_ISA {

constexpr int int8_weight_offset = 0;
// Rows of x and vectors of columns of W whose sums a GEMM keeps in registers at once.
constexpr int block_tile_rows = 6;
constexpr int block_tile_vectors = 2;
constexpr int row_tile_rows = 6;
constexpr int row_tile_vectors = 2;
constexpr std::size_t panel_element_bytes = 2;

// 16 int8 as 16 int16.
inline void widen_16(const std::int8_t* p, std::int8_t* out) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_cvtepi8_epi16(bytes));
}

struct PanelWeights {
  __m256i value;  // two int16 of each of eight columns
};
inline PanelInputs panel_inputs(PanelInputs x, std::size_t rows, std::size_t depth, std::int8_t* wide,
                                std::size_t wide_stride) {
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t i = 0; i < depth; i += 16)
      widen_16(x.values + r * x.stride + i, wide + r * wide_stride + panel_element_bytes * i);
  }
  return {wide, wide_stride};
}
inline PanelWeights load_panel(const std::int8_t* p) { return {load_32_bytes(p)}; }
inline void store_panel(const std::int8_t* rows, std::size_t stride, std::int8_t* out,
                        std::size_t out_stride) {
  for (std::size_t half = 0; half < 2; ++half) {
    std::int8_t wide[8][32];
    for (std::size_t row = 0; row < 8; ++row) widen_16(rows + row * stride + 16 * half, wide[row]);
    store_words_transposed(wide[0], 32, out + 8 * half * out_stride, out_stride);
  }
}
[[gnu::always_inline]] inline Int32Vector dot(Int32Vector sum, PanelWeights w, Int8Vector x) {
  sum.value = _mm256_add_epi32(sum.value, _mm256_madd_epi16(w.value, x.value));
  // Without this, GCC 12 reorders the additions of a block, and keeps all of its products in memory before.
  asm("" : "+x"(sum.value));
  return sum;
}

struct NibbleSums {
  __m256i pairs;  // int16
};
inline NibbleSums begin_nibble_sums(std::int32_t) { return {_mm256_setzero_si256()}; }
[[gnu::always_inline]] inline NibbleSums dot_nibbles(NibbleSums sum, Int8Vector w, Int8Vector x) {
  sum.pairs = _mm256_add_epi16(sum.pairs, _mm256_maddubs_epi16(w.value, x.value));
  asm("" : "+x"(sum.pairs));  // as above
  return sum;
}
inline Int32Vector total(NibbleSums sum, std::int32_t offset) {
  return {_mm256_add_epi32(_mm256_madd_epi16(sum.pairs, _mm256_set1_epi16(1)), _mm256_set1_epi32(offset))};
}

using Int4Columns = ByteColumns;
using Int4ColumnWords = ByteColumnWords;
struct Int8Columns {
  ByteColumns bytes;
};
struct Int8ColumnWords {
  ByteColumnWords bytes;
};
[[gnu::always_inline]] inline Int8Columns load_int8_columns(const std::int8_t* p, std::size_t row_bytes) {
  return {load_byte_columns(p, row_bytes, 0)};
}
[[gnu::always_inline]] inline Int8ColumnWords load_int8_column_words(const std::int8_t* p,
                                                                     std::size_t row_bytes) {
  return {words_of(load_byte_columns(p, row_bytes, 0))};
}

// Sums of two products each, as int16.
[[gnu::always_inline]] inline __m256i pair_products(__m256i w, __m256i x) {
  return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
}
inline __m256i sum_pairs(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }

[[gnu::always_inline]] inline FloatVector dot(const Int8Columns& w, const std::int8_t* x, int offset) {
  const __m256i low = broadcast_16_bytes(x);
  const __m256i high = broadcast_16_bytes(x + 16);
  __m256i quarters[4];
  for (int i = 0; i < 4; ++i) {
    quarters[i] = _mm256_add_epi32(sum_pairs(pair_products(w.bytes.low[i], low)),
                                   sum_pairs(pair_products(w.bytes.high[i], high)));
  }
  return row_sums(quarters, offset);
}

[[gnu::always_inline]] inline FloatVector dot(const Int8ColumnWords& w, const std::int8_t* x, int offset) {
  __m256i sum = _mm256_set1_epi32(offset);
  for (std::size_t j = 0; j < 8; ++j) {
    const __m256i pairs = pair_products(w.bytes.word[j], broadcast_4_bytes(x + 4 * j));
    sum = _mm256_add_epi32(sum, sum_pairs(pairs));
  }
  return {_mm256_cvtepi32_ps(sum)};
}

[[gnu::always_inline]] inline FloatVector dot(const Int4Columns& w, const std::int8_t* x, int offset) {
  const __m256i even = broadcast_16_bytes(x);
  const __m256i odd = broadcast_16_bytes(x + 16);
  __m256i pairs[4];
  for (int i = 0; i < 4; ++i) {
    pairs[i] = _mm256_add_epi16(_mm256_maddubs_epi16(w.low[i], even), _mm256_maddubs_epi16(w.high[i], odd));
  }
  // Halves of a row's sum: sixteen products each.
  const __m256i halves =
      _mm256_hadd_epi16(_mm256_hadd_epi16(pairs[0], pairs[1]), _mm256_hadd_epi16(pairs[2], pairs[3]));
  const __m256i sums = _mm256_madd_epi16(halves, _mm256_set1_epi16(1));
  return {_mm256_cvtepi32_ps(_mm256_add_epi32(sums, _mm256_set1_epi32(offset)))};
}

[[gnu::always_inline]] inline FloatVector dot(const Int4ColumnWords& w, const std::int8_t* x, int offset) {
  NibbleSums sum = begin_nibble_sums(offset);
  for (std::size_t j = 0; j < 8; ++j) {
    sum = dot_nibbles(sum, {w.word[j]}, {broadcast_4_bytes(x + 4 * j)});
  }
  return {_mm256_cvtepi32_ps(total(sum, offset).value)};
}

}  // namespace internvl::INTERNVL_ISA

#include "kernels/vector/integer/panel_rows.h"
