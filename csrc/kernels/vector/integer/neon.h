// Integer arithmetic on NEON: two registers of four sums. With the dot-product extension (neon_dotprod) by
// SDOT; panels with the matrix extension (neon_i8mm) by SMMLA. Included by integer/vector.h, where the
// interface is described.
#pragma once

#include <arm_neon.h>

namespace internvl::INTERNVL_ISA {

constexpr std::size_t sum_lanes = 8;
constexpr int int8_weight_offset = 0;
constexpr int int4_weight_offset = 0;

struct Int32Vector {
  int32x4_t low;
  int32x4_t high;
};
struct Int8Vector {
  int8x16_t low;
  int8x16_t high;
};
using Int8Weights = Int8Vector;

// Adds to each of four sums its four products.
[[gnu::always_inline]] inline int32x4_t add_products(int32x4_t sum, int8x16_t w, int8x16_t x) {
#if defined(__ARM_FEATURE_DOTPROD)
  return vdotq_s32(sum, w, x);
#else
  // Two products of at most 128 * 127 add up to 32512 in 16 bits.
  const int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
  const int16x8_t high = vmull_high_s8(w, x);
  return vpadalq_s16(sum, vpaddq_s16(low, high));
#endif
}

inline Int32Vector broadcast_sum(std::int32_t x) { return {vdupq_n_s32(x), vdupq_n_s32(x)}; }
inline Int32Vector load_sums(const std::int32_t* p) { return {vld1q_s32(p), vld1q_s32(p + 4)}; }
inline void store_sums(std::int32_t* p, Int32Vector v) {
  vst1q_s32(p, v.low);
  vst1q_s32(p + 4, v.high);
}

inline Int8Vector load_int8(const std::int8_t* p) { return {vld1q_s8(p), vld1q_s8(p + 16)}; }
inline Int8Vector broadcast_four(const std::int8_t* p) {
  std::int32_t four = 0;
  __builtin_memcpy(&four, p, sizeof(four));
  const int8x16_t all = vreinterpretq_s8_s32(vdupq_n_s32(four));
  return {all, all};
}
inline Int8Weights int8_weights(Int8Vector w) { return w; }
[[gnu::always_inline]] inline Int32Vector dot(Int32Vector sum, Int8Weights w, Int8Vector x) {
  return {add_products(sum.low, w.low, x.low), add_products(sum.high, w.high, x.high)};
}

// The even and the odd elements of 32.
inline void split_int4(const std::uint8_t* p, int8x16_t& even, int8x16_t& odd) {
  const int8x16_t both = vreinterpretq_s8_u8(vld1q_u8(p));
  even = vshrq_n_s8(vshlq_n_s8(both, 4), 4);
  odd = vshrq_n_s8(both, 4);
}
inline void expand_int4(const std::uint8_t* p, std::int8_t* out) {
  int8x16_t even;
  int8x16_t odd;
  split_int4(p, even, odd);
  vst1q_s8(out, even);
  vst1q_s8(out + 16, odd);
}

// 32 elements of eight rows: of int4, sixteen times the even ones and the odd ones, since whoever shifts both
// halves of a byte down waits for the one unit that shifts.
struct Int4Columns {
  int8x16_t even[8];
  int8x16_t odd[8];
};
[[gnu::always_inline]] inline Int4Columns load_int4_columns(const std::uint8_t* p, std::size_t row_bytes) {
  Int4Columns columns;
  for (std::size_t i = 0; i < 8; ++i) {
    const int8x16_t both = vreinterpretq_s8_u8(vld1q_u8(p + i * row_bytes));
    columns.even[i] = vshlq_n_s8(both, 4);
    columns.odd[i] = vandq_s8(both, vdupq_n_s8(-16));
  }
  return columns;
}
// Of int8, the first sixteen elements and the others.
struct Int8Columns {
  int8x16_t low[8];
  int8x16_t high[8];
};
[[gnu::always_inline]] inline Int8Columns load_int8_columns(const std::int8_t* p, std::size_t row_bytes) {
  Int8Columns columns;
  for (std::size_t i = 0; i < 8; ++i) {
    columns.low[i] = vld1q_s8(p + i * row_bytes);
    columns.high[i] = vld1q_s8(p + i * row_bytes + 16);
  }
  return columns;
}
// Rows of x are few enough for the same forms.
using Int8ColumnWords = Int8Columns;
using Int4ColumnWords = Int4Columns;
[[gnu::always_inline]] inline Int8ColumnWords load_int8_column_words(const std::int8_t* p,
                                                                     std::size_t row_bytes) {
  return load_int8_columns(p, row_bytes);
}
[[gnu::always_inline]] inline Int4ColumnWords load_int4_column_words(const std::uint8_t* p,
                                                                     std::size_t row_bytes) {
  return load_int4_columns(p, row_bytes);
}
static_assert(int8_weight_offset == 0 && int4_weight_offset == 0);

// Sums of the products of eight rows with 32 elements of x, in two pieces.
struct EightSums {
  int32x4_t low;
  int32x4_t high;
};
[[gnu::always_inline]] inline EightSums row_sums(const int8x16_t (&first)[8], const int8x16_t (&second)[8],
                                                 const std::int8_t* x) {
  const int8x16_t x_first = vld1q_s8(x);
  const int8x16_t x_second = vld1q_s8(x + 16);
  int32x4_t quarters[8];
  for (int i = 0; i < 8; ++i) {
    quarters[i] = add_products(add_products(vdupq_n_s32(0), first[i], x_first), second[i], x_second);
  }
  return {vpaddq_s32(vpaddq_s32(quarters[0], quarters[1]), vpaddq_s32(quarters[2], quarters[3])),
          vpaddq_s32(vpaddq_s32(quarters[4], quarters[5]), vpaddq_s32(quarters[6], quarters[7]))};
}
[[gnu::always_inline]] inline FloatVector dot(const Int4Columns& w, const std::int8_t* x, int) {
  const EightSums sums = row_sums(w.even, w.odd, x);
  return {vcvtq_n_f32_s32(sums.low, 4), vcvtq_n_f32_s32(sums.high, 4)};  // a sixteenth, exactly
}
[[gnu::always_inline]] inline FloatVector dot(const Int8Columns& w, const std::int8_t* x, int) {
  const EightSums sums = row_sums(w.low, w.high, x);
  return {vcvtq_f32_s32(sums.low), vcvtq_f32_s32(sums.high)};
}

inline void transpose_four(float32x4_t& a, float32x4_t& b, float32x4_t& c, float32x4_t& d) {
  const float32x4x2_t ab = vtrnq_f32(a, b);
  const float32x4x2_t cd = vtrnq_f32(c, d);
  a = vcombine_f32(vget_low_f32(ab.val[0]), vget_low_f32(cd.val[0]));
  b = vcombine_f32(vget_low_f32(ab.val[1]), vget_low_f32(cd.val[1]));
  c = vcombine_f32(vget_high_f32(ab.val[0]), vget_high_f32(cd.val[0]));
  d = vcombine_f32(vget_high_f32(ab.val[1]), vget_high_f32(cd.val[1]));
}
inline void transpose(FloatVector (&rows)[8]) {
  transpose_four(rows[0].low, rows[1].low, rows[2].low, rows[3].low);
  transpose_four(rows[0].high, rows[1].high, rows[2].high, rows[3].high);
  transpose_four(rows[4].low, rows[5].low, rows[6].low, rows[7].low);
  transpose_four(rows[4].high, rows[5].high, rows[6].high, rows[7].high);
  for (int i = 0; i < 4; ++i) {
    const float32x4_t above = rows[i].high;
    rows[i].high = rows[i + 4].low;
    rows[i + 4].low = above;
  }
}

inline FloatVector load_words(const std::int8_t* p) {
  return {vreinterpretq_f32_s8(vld1q_s8(p)), vreinterpretq_f32_s8(vld1q_s8(p + 16))};
}
// The 32-bit words of eight rows of 32 bytes, those of all rows beside each other.
inline void store_words_transposed(const std::int8_t* rows, std::size_t stride, std::int8_t* out,
                                   std::size_t out_stride) {
  FloatVector r[8];
  for (std::size_t i = 0; i < 8; ++i) r[i] = load_words(rows + i * stride);
  transpose(r);
  for (std::size_t i = 0; i < 8; ++i) {
    vst1q_s8(out + i * out_stride, vreinterpretq_s8_f32(r[i].low));
    vst1q_s8(out + i * out_stride + 16, vreinterpretq_s8_f32(r[i].high));
  }
}

inline int8x8_t rounded(FloatVector v) {
  const int16x8_t wide = vcombine_s16(vmovn_s32(vcvtnq_s32_f32(v.low)), vmovn_s32(vcvtnq_s32_f32(v.high)));
  return vmovn_s16(wide);
}
inline void store_rounded(std::int8_t* out, const FloatVector (&v)[4]) {
  for (int i = 0; i < 4; ++i) vst1_s8(out + static_cast<std::ptrdiff_t>(8 * i), rounded(v[i]));
}
inline void store_rounded_split(std::int8_t* out, const FloatVector (&v)[4]) {
  const int8x16_t low = vcombine_s8(rounded(v[0]), rounded(v[1]));
  const int8x16_t high = vcombine_s8(rounded(v[2]), rounded(v[3]));
  vst1q_s8(out, vuzp1q_s8(low, high));
  vst1q_s8(out + 16, vuzp2q_s8(low, high));
}

}  // namespace internvl::INTERNVL_ISA

#include "kernels/vector/integer/eight_column_words.h"

#if defined(INTERNVL_I8MM)
#include "kernels/vector/integer/panel_pairs.h"
#else
namespace internvl::INTERNVL_ISA {

// Rows of x and vectors of columns of W whose sums a GEMM keeps in registers at once: 16 of 32 registers.
constexpr int block_tile_rows = 4;
constexpr int block_tile_vectors = 2;
constexpr int row_tile_rows = block_tile_rows;
constexpr int row_tile_vectors = block_tile_vectors;

using NibbleSums = Int32Vector;
inline NibbleSums begin_nibble_sums(std::int32_t) { return broadcast_sum(0); }
[[gnu::always_inline]] inline NibbleSums dot_nibbles(NibbleSums sum, Int8Vector w, Int8Vector x) {
  return dot(sum, w, x);
}
inline Int32Vector total(NibbleSums sum, std::int32_t) { return sum; }

using ColumnFloats = FloatVector;
inline ColumnFloats broadcast_columns(float x) { return broadcast(x); }
inline ColumnFloats load_columns(const float* p) { return load(p); }
inline void store_columns(float* p, ColumnFloats v) { store(p, v); }
inline ColumnFloats to_float(Int32Vector v) { return {vcvtq_f32_s32(v.low), vcvtq_f32_s32(v.high)}; }

}  // namespace internvl::INTERNVL_ISA

#include "kernels/vector/integer/panel_bytes.h"
#endif

// After the panels that it is written over.
#include "kernels/vector/integer/expanded_nibbles.h"
