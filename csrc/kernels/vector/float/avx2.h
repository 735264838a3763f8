// FloatVector on AVX2, FMA and F16C, and on AVX-512: eight lanes in a 256-bit register there too, so that
// every fp32 result is the same bits; what AVX-512 adds here is its sixteen more registers. Included by
// float/vector.h, where the interface is described.
#pragma once

#include "kernels/vector/x86_intrinsics.h"

namespace internvl::INTERNVL_ISA {

struct FloatVector {
  __m256 value;
};

// Rows of x and rows of W whose dot products a GEMM keeps in registers at once, and rows that meet two
// vectors of keys or values at once in attention.
#if defined(INTERNVL_AVX512)
constexpr int tile_rows = 6;  // 24 sums, 4 weights and one x of 32 registers
constexpr int tile_columns = 4;
constexpr int attention_tile_rows = 12;
#else
constexpr int tile_rows = 4;  // 12 sums, 3 weights and one x fill the sixteen registers
constexpr int tile_columns = 3;
constexpr int attention_tile_rows = 6;
#endif

inline FloatVector broadcast(float x) { return {_mm256_set1_ps(x)}; }

inline FloatVector load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline FloatVector load(const Float16* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
inline FloatVector load(const BFloat16* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
}
inline FloatVector load(const std::int8_t* p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
}

// All ones in the first `remaining` lanes.
inline __m256i first_lanes(std::size_t remaining) {
  const auto count = static_cast<int>(remaining < 8 ? remaining : 8);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline FloatVector load(const float* p, std::size_t remaining) {
  return {_mm256_maskload_ps(p, first_lanes(remaining))};
}
template <class T>
inline FloatVector load(const T* p, std::size_t remaining) {
  T first[8] = {};
  for (std::size_t i = 0; i < 8 && i < remaining; ++i) first[i] = p[i];
  return load(first);
}
inline void store(float* p, FloatVector v) { _mm256_storeu_ps(p, v.value); }
inline void store(float* p, FloatVector v, std::size_t remaining) {
  _mm256_maskstore_ps(p, first_lanes(remaining), v.value);
}

inline FloatVector operator+(FloatVector a, FloatVector b) { return {_mm256_add_ps(a.value, b.value)}; }
inline FloatVector operator-(FloatVector a, FloatVector b) { return {_mm256_sub_ps(a.value, b.value)}; }
inline FloatVector operator*(FloatVector a, FloatVector b) { return {_mm256_mul_ps(a.value, b.value)}; }
inline FloatVector operator/(FloatVector a, FloatVector b) { return {_mm256_div_ps(a.value, b.value)}; }
inline FloatVector fma(FloatVector a, FloatVector b, FloatVector c) {
  return {_mm256_fmadd_ps(a.value, b.value, c.value)};
}
// The second operand where either is NaN.
inline FloatVector max(FloatVector a, FloatVector b) { return {_mm256_max_ps(a.value, b.value)}; }
inline FloatVector min(FloatVector a, FloatVector b) { return {_mm256_min_ps(a.value, b.value)}; }
// 0 in the lanes where x < limit, `value` in the others.
inline FloatVector zero_where_less(FloatVector x, FloatVector limit, FloatVector value) {
  return {_mm256_andnot_ps(_mm256_cmp_ps(x.value, limit.value, _CMP_LT_OQ), value.value)};
}
// x * 2^n for integral -126 <= n <= 127.
inline FloatVector times_power_of_two(FloatVector x, FloatVector n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n.value), _mm256_set1_epi32(127));
  return {_mm256_mul_ps(x.value, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)))};
}

inline void reduce_add4(FloatVector a, FloatVector b, FloatVector c, FloatVector d, float* sums) {
  const __m256 ab = _mm256_hadd_ps(a.value, b.value);
  const __m256 cd = _mm256_hadd_ps(c.value, d.value);
  const __m256 halves = _mm256_hadd_ps(ab, cd);
  _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1)));
}
inline float reduce_add(FloatVector v) {
  const __m256 pairs = _mm256_hadd_ps(v.value, v.value);
  const __m256 halves = _mm256_hadd_ps(pairs, pairs);
  return _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1)));
}
inline float reduce_max(FloatVector v) {
  __m128 greatest = _mm_max_ps(_mm256_castps256_ps128(v.value), _mm256_extractf128_ps(v.value, 1));
  greatest = _mm_max_ps(greatest, _mm_movehl_ps(greatest, greatest));
  greatest = _mm_max_ss(greatest, _mm_movehdup_ps(greatest));
  return _mm_cvtss_f32(greatest);
}

}  // namespace internvl::INTERNVL_ISA
