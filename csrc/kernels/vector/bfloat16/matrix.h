// Products of small matrices of bf16, on the set that has them (neon_i8mm): BFMMLA multiplies two rows of
// four elements, a word each, by two columns. It adds two products, then that to the sum, twice, and rounds
// each to odd; subnormal numbers count as 0.
//
//   WordPair               a word of each of two rows: load_words(first, second), or load_words(p) from where
//                          store_words(first, second, out, out_stride) put eight elements of each as two
//   MatrixSums             [2, 2] fp32; zero_matrix_sums(), multiply(sums, rows, columns)
//   store_rows(a, b, first, second)    four columns of each row from two MatrixSums
//
// Included by kernel sources only.
#pragma once

#include "kernels/vector/float/vector.h"

namespace internvl::INTERNVL_ISA {

constexpr std::size_t word_elements = 4;
// Rows of x and rows of W whose sums a GEMM keeps in registers at once, two by two: 24 of 32 registers.
constexpr std::size_t matrix_tile_rows = 6;
constexpr std::size_t matrix_tile_columns = 16;

struct WordPair {
  uint16x8_t rows;
};
struct MatrixSums {
  float32x4_t sums;
};

inline WordPair load_words(const BFloat16* first, const BFloat16* second) {
  return {vcombine_u16(vld1_u16(&first->bits), vld1_u16(&second->bits))};
}
inline WordPair load_words(const BFloat16* p) { return {vld1q_u16(&p->bits)}; }
inline void store_words(const BFloat16* first, const BFloat16* second, BFloat16* out,
                        std::size_t out_stride) {
  const uint16x8_t a = vld1q_u16(&first->bits);
  const uint16x8_t b = vld1q_u16(&second->bits);
  vst1q_u16(&out->bits, vcombine_u16(vget_low_u16(a), vget_low_u16(b)));
  vst1q_u16(&out[out_stride].bits, vcombine_u16(vget_high_u16(a), vget_high_u16(b)));
}

inline MatrixSums zero_matrix_sums() { return {vdupq_n_f32(0.0F)}; }
[[gnu::always_inline]] inline MatrixSums multiply(MatrixSums sums, WordPair rows, WordPair columns) {
  return {vbfmmlaq_f32(sums.sums, vreinterpretq_bf16_u16(rows.rows), vreinterpretq_bf16_u16(columns.rows))};
}
inline void store_rows(MatrixSums a, MatrixSums b, float* first, float* second) {
  vst1q_f32(first, vcombine_f32(vget_low_f32(a.sums), vget_low_f32(b.sums)));
  vst1q_f32(second, vcombine_f32(vget_high_f32(a.sums), vget_high_f32(b.sums)));
}

}  // namespace internvl::INTERNVL_ISA
