// FloatVector on NEON: two registers of four lanes. Included by float/vector.h, where the interface is
// described.
#pragma once

#include <arm_neon.h>

namespace internvl::INTERNVL_ISA {

struct FloatVector {
  float32x4_t low;
  float32x4_t high;
};

// Rows of x and rows of W whose dot products a GEMM keeps in registers at once: 24 of 32 registers hold sums.
constexpr int tile_rows = 4;
constexpr int tile_columns = 3;
// Rows that meet two vectors of keys or values at once in attention.
constexpr int attention_tile_rows = 6;

inline FloatVector broadcast(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x)}; }

inline FloatVector load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
inline FloatVector load(const Float16* p) {
  const float16x8_t half = vreinterpretq_f16_u16(vld1q_u16(&p->bits));
  return {vcvt_f32_f16(vget_low_f16(half)), vcvt_high_f32_f16(half)};
}
inline FloatVector load(const BFloat16* p) {
  const uint16x8_t half = vld1q_u16(&p->bits);
  return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(half), 16)),
          vreinterpretq_f32_u32(vshll_high_n_u16(half, 16))};
}
inline FloatVector load(const std::int8_t* p) {
  const int16x8_t wide = vmovl_s8(vld1_s8(p));
  return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))), vcvtq_f32_s32(vmovl_high_s16(wide))};
}
template <class T>
inline FloatVector load(const T* p, std::size_t remaining) {
  T first[8] = {};
  for (std::size_t i = 0; i < 8 && i < remaining; ++i) first[i] = p[i];
  return load(first);
}
inline void store(float* p, FloatVector v) {
  vst1q_f32(p, v.low);
  vst1q_f32(p + 4, v.high);
}
inline void store(float* p, FloatVector v, std::size_t remaining) {
  float all[8];
  store(all, v);
  for (std::size_t i = 0; i < 8 && i < remaining; ++i) p[i] = all[i];
}

inline FloatVector operator+(FloatVector a, FloatVector b) {
  return {vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)};
}
inline FloatVector operator-(FloatVector a, FloatVector b) {
  return {vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)};
}
inline FloatVector operator*(FloatVector a, FloatVector b) {
  return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)};
}
inline FloatVector operator/(FloatVector a, FloatVector b) {
  return {vdivq_f32(a.low, b.low), vdivq_f32(a.high, b.high)};
}
inline FloatVector fma(FloatVector a, FloatVector b, FloatVector c) {
  return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)};
}
// The second operand where either is NaN, as on x86.
inline FloatVector max(FloatVector a, FloatVector b) {
  return {vbslq_f32(vcgtq_f32(a.low, b.low), a.low, b.low),
          vbslq_f32(vcgtq_f32(a.high, b.high), a.high, b.high)};
}
inline FloatVector min(FloatVector a, FloatVector b) {
  return {vbslq_f32(vcltq_f32(a.low, b.low), a.low, b.low),
          vbslq_f32(vcltq_f32(a.high, b.high), a.high, b.high)};
}
// 0 in the lanes where x < limit, `value` in the others.
inline FloatVector zero_where_less(FloatVector x, FloatVector limit, FloatVector value) {
  const float32x4_t zero = vdupq_n_f32(0.0F);
  return {vbslq_f32(vcltq_f32(x.low, limit.low), zero, value.low),
          vbslq_f32(vcltq_f32(x.high, limit.high), zero, value.high)};
}
// x * 2^n for integral -126 <= n <= 127.
inline FloatVector times_power_of_two(FloatVector x, FloatVector n) {
  const int32x4_t bias = vdupq_n_s32(127);
  const int32x4_t low = vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n.low), bias), 23);
  const int32x4_t high = vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n.high), bias), 23);
  return {vmulq_f32(x.low, vreinterpretq_f32_s32(low)), vmulq_f32(x.high, vreinterpretq_f32_s32(high))};
}

inline void reduce_add4(FloatVector a, FloatVector b, FloatVector c, FloatVector d, float* sums) {
  const float32x4_t low = vpaddq_f32(vpaddq_f32(a.low, b.low), vpaddq_f32(c.low, d.low));
  const float32x4_t high = vpaddq_f32(vpaddq_f32(a.high, b.high), vpaddq_f32(c.high, d.high));
  vst1q_f32(sums, vaddq_f32(low, high));
}
inline float reduce_add(FloatVector v) {
  const float32x4_t pairs = vpaddq_f32(v.low, v.high);
  const float32x4_t halves = vpaddq_f32(pairs, pairs);
  return vgetq_lane_f32(halves, 0) + vgetq_lane_f32(halves, 1);
}
inline float reduce_max(FloatVector v) { return vmaxvq_f32(vmaxq_f32(v.low, v.high)); }

}  // namespace internvl::INTERNVL_ISA
