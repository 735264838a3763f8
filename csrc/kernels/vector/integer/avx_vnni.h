// Integer arithmetic on AVX2 and AVX-VNNI, VPDPBUSD in 256 bits. Included by integer/vector.h, where the
// interface is described.
//
// Processors with AVX-512 VNNI and without AVX-VNNI have the same instruction in EVEX encoding: the preset
// `evex` compiles this source so for them, and the preset `emulated` compiles it against SIMDe.
#pragma once

#include "kernels/vector/integer/vnni.h"
#include "kernels/vector/integer/ymm.h"

namespace internvl::INTERNVL_ISA {

// Rows of x and vectors of columns of W whose sums a GEMM keeps in registers at once.
constexpr int row_tile_rows = 6;
constexpr int row_tile_vectors = 2;
constexpr int block_tile_rows = 6;
constexpr int block_tile_vectors = 2;

struct Int8Weights {
  __m256i value;  // + 128
};

inline Int8Weights int8_weights(Int8Vector w) { return {_mm256_xor_si256(w.value, _mm256_set1_epi8(-0x80))}; }
[[gnu::always_inline]] inline Int32Vector dot(Int32Vector sum, Int8Weights w, Int8Vector x) {
  return {add_products(sum.value, w.value, x.value)};
}

using NibbleSums = Int32Vector;
inline NibbleSums begin_nibble_sums(std::int32_t offset) { return broadcast_sum(offset); }
[[gnu::always_inline]] inline NibbleSums dot_nibbles(NibbleSums sum, Int8Vector w, Int8Vector x) {
  return {add_products(sum.value, w.value, x.value)};
}
inline Int32Vector total(NibbleSums sum, std::int32_t) { return sum; }

using Int8ColumnWords = ByteColumnWords;
using Int4ColumnWords = ByteColumnWords;
[[gnu::always_inline]] inline Int8ColumnWords load_int8_column_words(const std::int8_t* p,
                                                                     std::size_t row_bytes) {
  return words_of(load_int8_columns(p, row_bytes));
}
[[gnu::always_inline]] inline FloatVector dot(const ByteColumnWords& w, const std::int8_t* x, int offset) {
  __m256i low = _mm256_set1_epi32(offset);
  __m256i high = _mm256_setzero_si256();
  for (std::size_t j = 0; j < 4; ++j) {
    low = add_products(low, w.word[j], broadcast_4_bytes(x + 4 * j));
    high = add_products(high, w.word[j + 4], broadcast_4_bytes(x + 4 * j + 16));
  }
  return {_mm256_cvtepi32_ps(_mm256_add_epi32(low, high))};
}

}  // namespace internvl::INTERNVL_ISA

#include "kernels/vector/integer/panel_bytes.h"
