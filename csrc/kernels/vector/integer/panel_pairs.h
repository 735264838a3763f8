// Panels that meet two rows of x at a time, by products of matrices: SMMLA multiplies two rows of eight bytes
// by two columns. Included at the end of integer/neon.h.
#pragma once

// GCC 12 would unroll loops over groups too late to keep fp32 totals in registers.
#define INTERNVL_UNROLL_GROUPS _Pragma("GCC unroll 8")

namespace internvl::INTERNVL_ISA {

constexpr std::size_t row_group = 2;
constexpr std::size_t word_bytes = 8;
constexpr std::size_t panel_element_bytes = 1;
// Rows of x and vectors of columns of W whose sums a GEMM keeps in registers at once: 24 of 32 registers; of
// int4, 12 and as many for totals.
constexpr int row_tile_rows = 12;
constexpr int row_tile_vectors = 1;
constexpr int block_tile_rows = 6;
constexpr int block_tile_vectors = 1;

// Of columns 0 and 1 of eight, 2 and 3, and so on: both sums of the first row, then both of the second. No
// array, which GCC 12 would keep in memory.
struct GroupSums {
  int32x4_t c01, c23, c45, c67;
};
struct GroupFloats {
  float32x4_t c01, c23, c45, c67;
};
// A word of the first row, and one of the second.
struct GroupWord {
  int8x16_t rows;
};
// A word of each of eight columns.
struct PanelWeights {
  int8x16_t c01, c23, c45, c67;
};

// The lower or the upper halves of two vectors, beside each other.
inline int8x16_t low_halves(int8x16_t a, int8x16_t b) {
  return vreinterpretq_s8_s64(vzip1q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)));
}
inline int8x16_t high_halves(int8x16_t a, int8x16_t b) {
  return vreinterpretq_s8_s64(vzip2q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)));
}
inline int32x4_t low_halves(int32x4_t a, int32x4_t b) {
  return vreinterpretq_s32_s64(vzip1q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
}
inline int32x4_t high_halves(int32x4_t a, int32x4_t b) {
  return vreinterpretq_s32_s64(vzip2q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
}
inline float32x4_t low_halves(float32x4_t a, float32x4_t b) {
  return vreinterpretq_f32_f64(vzip1q_f64(vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b)));
}
inline float32x4_t high_halves(float32x4_t a, float32x4_t b) {
  return vreinterpretq_f32_f64(vzip2q_f64(vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b)));
}

inline GroupSums broadcast_sums(std::int32_t x) {
  const int32x4_t all = vdupq_n_s32(x);
  return {all, all, all, all};
}
inline GroupSums load_sums(const std::int32_t* p, std::size_t stride) {
  const int32x4_t first = vld1q_s32(p);
  const int32x4_t first_4 = vld1q_s32(p + 4);
  const int32x4_t second = vld1q_s32(p + stride);
  const int32x4_t second_4 = vld1q_s32(p + stride + 4);
  return {low_halves(first, second), high_halves(first, second), low_halves(first_4, second_4),
          high_halves(first_4, second_4)};
}
inline void store_sums(std::int32_t* p, std::size_t stride, GroupSums v) {
  vst1q_s32(p, low_halves(v.c01, v.c23));
  vst1q_s32(p + 4, low_halves(v.c45, v.c67));
  vst1q_s32(p + stride, high_halves(v.c01, v.c23));
  vst1q_s32(p + stride + 4, high_halves(v.c45, v.c67));
}

// The last row of an odd number is its own partner; what becomes of that is not read.
inline PanelInputs panel_inputs(PanelInputs x, std::size_t rows, std::size_t depth, std::int8_t* copy,
                                std::size_t copy_stride) {
  for (std::size_t r = 0; r < rows; r += 2) {
    const std::int8_t* first = x.values + r * x.stride;
    const std::int8_t* second = r + 1 < rows ? first + x.stride : first;
    std::int8_t* to = copy + r / 2 * copy_stride;
    for (std::size_t i = 0; i < depth; i += 16) {
      const int8x16_t a = vld1q_s8(first + i);
      const int8x16_t b = vld1q_s8(second + i);
      vst1q_s8(to + 2 * i, low_halves(a, b));
      vst1q_s8(to + 2 * i + 16, high_halves(a, b));
    }
  }
  return {copy, copy_stride};
}
inline GroupWord broadcast_word(const std::int8_t* p) { return {vld1q_s8(p)}; }

inline void store_panel(const std::int8_t* rows, std::size_t stride, std::int8_t* out,
                        std::size_t out_stride) {
  for (std::size_t c = 0; c < 8; c += 2) {
    for (std::size_t half = 0; half < 2; ++half) {
      const int8x16_t a = vld1q_s8(rows + c * stride + 16 * half);
      const int8x16_t b = vld1q_s8(rows + (c + 1) * stride + 16 * half);
      std::int8_t* to = out + 2 * half * out_stride + word_bytes * c;
      vst1q_s8(to, low_halves(a, b));
      vst1q_s8(to + out_stride, high_halves(a, b));
    }
  }
}
inline PanelWeights load_panel(const std::int8_t* p) {
  return {vld1q_s8(p), vld1q_s8(p + 16), vld1q_s8(p + 32), vld1q_s8(p + 48)};
}
[[gnu::always_inline]] inline GroupSums dot(GroupSums sum, const PanelWeights& w, GroupWord x) {
  return {vmmlaq_s32(sum.c01, x.rows, w.c01), vmmlaq_s32(sum.c23, x.rows, w.c23),
          vmmlaq_s32(sum.c45, x.rows, w.c45), vmmlaq_s32(sum.c67, x.rows, w.c67)};
}

// int4 weights are bytes like int8's.
using NibbleWeights = PanelWeights;
using NibbleSums = GroupSums;
inline NibbleWeights load_nibbles(const std::int8_t* p) { return load_panel(p); }
inline PanelInputs nibble_inputs(PanelInputs x, std::size_t rows, std::size_t depth, std::int8_t* copy,
                                 std::size_t copy_stride) {
  return panel_inputs(x, rows, depth, copy, copy_stride);
}
inline NibbleSums begin_nibble_sums(std::int32_t) { return broadcast_sums(0); }
[[gnu::always_inline]] inline NibbleSums dot_nibbles(NibbleSums sum, const NibbleWeights& w, GroupWord x) {
  return dot(sum, w, x);
}
static_assert(int4_weight_offset == 0);
inline GroupSums total(NibbleSums sum, std::int32_t) { return sum; }

inline GroupFloats zero_floats() {
  const float32x4_t zero = vdupq_n_f32(0.0F);
  return {zero, zero, zero, zero};
}
inline GroupFloats load_floats(const float* p, std::size_t stride) {
  const float32x4_t first = vld1q_f32(p);
  const float32x4_t first_4 = vld1q_f32(p + 4);
  const float32x4_t second = vld1q_f32(p + stride);
  const float32x4_t second_4 = vld1q_f32(p + stride + 4);
  return {low_halves(first, second), high_halves(first, second), low_halves(first_4, second_4),
          high_halves(first_4, second_4)};
}
inline void store_floats(float* p, std::size_t stride, GroupFloats v) {
  vst1q_f32(p, low_halves(v.c01, v.c23));
  vst1q_f32(p + 4, low_halves(v.c45, v.c67));
  vst1q_f32(p + stride, high_halves(v.c01, v.c23));
  vst1q_f32(p + stride + 4, high_halves(v.c45, v.c67));
}
inline float32x4_t two_columns(const float* p) {
  const float32x2_t columns = vld1_f32(p);
  return vcombine_f32(columns, columns);
}
inline GroupFloats column_floats(const float* p) {
  return {two_columns(p), two_columns(p + 2), two_columns(p + 4), two_columns(p + 6)};
}
inline GroupFloats row_floats(const float* p, std::size_t step) {
  const float32x4_t rows = vcombine_f32(vld1_dup_f32(p), vld1_dup_f32(p + step));
  return {rows, rows, rows, rows};
}
inline GroupFloats to_float(GroupSums v) {
  return {vcvtq_f32_s32(v.c01), vcvtq_f32_s32(v.c23), vcvtq_f32_s32(v.c45), vcvtq_f32_s32(v.c67)};
}
inline GroupFloats operator*(const GroupFloats& a, const GroupFloats& b) {
  return {vmulq_f32(a.c01, b.c01), vmulq_f32(a.c23, b.c23), vmulq_f32(a.c45, b.c45), vmulq_f32(a.c67, b.c67)};
}
inline GroupFloats fma(const GroupFloats& a, const GroupFloats& b, const GroupFloats& c) {
  return {vfmaq_f32(c.c01, a.c01, b.c01), vfmaq_f32(c.c23, a.c23, b.c23), vfmaq_f32(c.c45, a.c45, b.c45),
          vfmaq_f32(c.c67, a.c67, b.c67)};
}

}  // namespace internvl::INTERNVL_ISA
