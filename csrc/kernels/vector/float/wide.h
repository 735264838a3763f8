// As many fp32 lanes as a register has, for kernels whose sums differ between instruction sets anyway:
// sixteen on AVX-512, the eight of FloatVector elsewhere.
//
//   WideVector             wide_lanes lanes, with the operators and functions of FloatVector
//   load_wide(p), load_wide(p, remaining), broadcast_wide(x)
//   load_firsts(p), load_seconds(p)    of pairs of neighbouring BFloat16 or int8: the first of each, the
//   second power_of_two<Degree>(x)            2^x for x <= 1, 0 below -126; the polynomial's degree says how
//   exactly
//
// Included by kernel sources only.
#pragma once

#include "kernels/vector/float/vector.h"

namespace internvl::INTERNVL_ISA {

#if defined(INTERNVL_AVX2)
inline FloatVector eight_firsts(const std::int8_t* p) {
  const __m256i words = _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return {_mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(words, 24), 24))};
}
inline FloatVector eight_seconds(const std::int8_t* p) {
  const __m256i words = _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return {_mm256_cvtepi32_ps(_mm256_srai_epi32(words, 8))};
}
#endif

#if defined(INTERNVL_AVX512)

constexpr std::size_t wide_lanes = 16;

struct WideVector {
  __m512 value;
};

inline WideVector broadcast_wide(float x) { return {_mm512_set1_ps(x)}; }

inline WideVector load_wide(const float* p) { return {_mm512_loadu_ps(p)}; }
inline WideVector wide_of(FloatVector low, FloatVector high) {
  return {_mm512_insertf32x8(_mm512_castps256_ps512(low.value), high.value, 1)};
}
inline FloatVector low_half(WideVector v) { return {_mm512_castps512_ps256(v.value)}; }
inline FloatVector high_half(WideVector v) {
  return {_mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v.value), 1))};
}

inline WideVector load_wide(const Float16* p) {
#if defined(INTERNVL_EMULATED_AVX512)
  return wide_of(load(p), load(p + lanes));
#else
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
#endif
}
inline WideVector load_firsts(const BFloat16* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16))};
}
inline WideVector load_seconds(const BFloat16* p) {
  return {_mm512_castsi512_ps(
      _mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32(static_cast<int>(0xFFFF0000U))))};
}
inline WideVector load_firsts(const std::int8_t* p) {
  return wide_of(eight_firsts(p), eight_firsts(p + wide_lanes));
}
inline WideVector load_seconds(const std::int8_t* p) {
  return wide_of(eight_seconds(p), eight_seconds(p + wide_lanes));
}

inline __mmask16 first_wide_lanes(std::size_t remaining) {
  return static_cast<__mmask16>(remaining < wide_lanes ? (1U << remaining) - 1U : 0xFFFFU);
}
inline WideVector load_wide(const float* p, std::size_t remaining) {
#if defined(INTERNVL_EMULATED_AVX512)
  const std::size_t more = remaining > lanes ? remaining - lanes : 0;
  return wide_of(load(p, remaining), more > 0 ? load(p + lanes, more) : broadcast(0.0F));
#else
  return {_mm512_maskz_loadu_ps(first_wide_lanes(remaining), p)};
#endif
}
inline void store(float* p, WideVector v) { _mm512_storeu_ps(p, v.value); }
inline void store(float* p, WideVector v, std::size_t remaining) {
#if defined(INTERNVL_EMULATED_AVX512)
  store(p, low_half(v), remaining);
  if (remaining > lanes) store(p + lanes, high_half(v), remaining - lanes);
#else
  _mm512_mask_storeu_ps(p, first_wide_lanes(remaining), v.value);
#endif
}
// `value` in the first `count` lanes, `other` in the others.
inline WideVector select_first(std::size_t count, WideVector value, WideVector other) {
  return {_mm512_mask_mov_ps(other.value, first_wide_lanes(count), value.value)};
}

inline WideVector operator+(WideVector a, WideVector b) { return {_mm512_add_ps(a.value, b.value)}; }
inline WideVector operator-(WideVector a, WideVector b) { return {_mm512_sub_ps(a.value, b.value)}; }
inline WideVector operator*(WideVector a, WideVector b) { return {_mm512_mul_ps(a.value, b.value)}; }
inline WideVector fma(WideVector a, WideVector b, WideVector c) {
  return {_mm512_fmadd_ps(a.value, b.value, c.value)};
}
// The second operand where either is NaN.
inline WideVector max(WideVector a, WideVector b) { return {_mm512_max_ps(a.value, b.value)}; }
inline WideVector zero_where_less(WideVector x, WideVector limit, WideVector value) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.value, limit.value, _CMP_NLT_UQ), value.value)};
}
inline WideVector times_power_of_two(WideVector x, WideVector n) {
  return {_mm512_scalef_ps(x.value, n.value)};
}

inline float reduce_add(WideVector v) { return reduce_add(low_half(v) + high_half(v)); }
inline float reduce_max(WideVector v) { return reduce_max(max(low_half(v), high_half(v))); }

#else

constexpr std::size_t wide_lanes = lanes;
using WideVector = FloatVector;

inline WideVector broadcast_wide(float x) { return broadcast(x); }
template <class T>
inline WideVector load_wide(const T* p) {
  return load(p);
}
inline WideVector load_wide(const float* p, std::size_t remaining) { return load(p, remaining); }

#if defined(INTERNVL_AVX2)
inline WideVector load_firsts(const BFloat16* p) {
  const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(words, 16))};
}
inline WideVector load_seconds(const BFloat16* p) {
  const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32(static_cast<int>(0xFFFF0000U))))};
}
inline WideVector load_firsts(const std::int8_t* p) { return eight_firsts(p); }
inline WideVector load_seconds(const std::int8_t* p) { return eight_seconds(p); }
#elif defined(INTERNVL_NEON)
inline WideVector load_firsts(const BFloat16* p) {
  const uint32x4_t low = vreinterpretq_u32_u16(vld1q_u16(&p->bits));
  const uint32x4_t high = vreinterpretq_u32_u16(vld1q_u16(&p[lanes].bits));
  return {vreinterpretq_f32_u32(vshlq_n_u32(low, 16)), vreinterpretq_f32_u32(vshlq_n_u32(high, 16))};
}
inline WideVector load_seconds(const BFloat16* p) {
  const uint32x4_t upper = vdupq_n_u32(0xFFFF0000U);
  const uint32x4_t low = vreinterpretq_u32_u16(vld1q_u16(&p->bits));
  const uint32x4_t high = vreinterpretq_u32_u16(vld1q_u16(&p[lanes].bits));
  return {vreinterpretq_f32_u32(vandq_u32(low, upper)), vreinterpretq_f32_u32(vandq_u32(high, upper))};
}
inline WideVector widened(int16x8_t values) {
  return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(values))), vcvtq_f32_s32(vmovl_high_s16(values))};
}
inline WideVector load_firsts(const std::int8_t* p) {
  return widened(vshrq_n_s16(vshlq_n_s16(vreinterpretq_s16_s8(vld1q_s8(p)), 8), 8));
}
inline WideVector load_seconds(const std::int8_t* p) {
  return widened(vshrq_n_s16(vreinterpretq_s16_s8(vld1q_s8(p)), 8));
}
#else
template <class T>
inline WideVector load_firsts(const T* p) {
  return each_lane([=](int i) { return widen(p[std::ptrdiff_t{2} * i]); });
}
template <class T>
inline WideVector load_seconds(const T* p) {
  return each_lane([=](int i) { return widen(p[std::ptrdiff_t{2} * i + 1]); });
}
#endif

// `value` in the first `count` lanes, `other` in the others.
inline WideVector select_first(std::size_t count, WideVector value, WideVector other) {
  float all[lanes];
  store(all, other);
  store(all, value, count);
  return load(all);
}

#endif

template <int Degree>
inline WideVector power_of_two(WideVector x) {
  static_assert(Degree == 4 || Degree == 6);
  constexpr float lowest = -126.0F;
  // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
  const WideVector rounder = broadcast_wide(12582912.0F);
  // NaN is the second operand, and so passes through.
  const WideVector bounded = max(broadcast_wide(lowest), x);
  const WideVector n = (bounded + rounder) - rounder;
  const WideVector r = bounded - n;
  // 2^r on |r| <= 1/2 by Lawson's iteration, with p(0) = 1; relative error below 2^-28 and 2^-18.
  WideVector q = broadcast_wide(Degree == 6 ? 0.000153533619F : 0.00958285299F);
  if constexpr (Degree == 6) {
    q = fma(q, r, broadcast_wide(0.00133988744F));
    q = fma(q, r, broadcast_wide(0.00961843736F));
  }
  q = fma(q, r, broadcast_wide(Degree == 6 ? 0.0555033247F : 0.0559064247F));
  q = fma(q, r, broadcast_wide(Degree == 6 ? 0.240226479F : 0.240240986F));
  q = fma(q, r, broadcast_wide(Degree == 6 ? 0.693147203F : 0.693124193F));
  q = fma(q, r, broadcast_wide(1.0F));
  return zero_where_less(x, broadcast_wide(lowest), times_power_of_two(q, n));
}

}  // namespace internvl::INTERNVL_ISA
