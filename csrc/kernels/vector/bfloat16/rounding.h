// From fp32 to bf16: to the nearest, ties to even, NaN stays NaN. Included by kernel sources only.
#pragma once

#include "kernels/vector/float/wide.h"

namespace internvl::INTERNVL_ISA {

inline BFloat16 rounded_to_bfloat16(float x) {
  std::uint32_t bits = 0;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  const bool nan = (bits & 0x7FFFFFFFU) > 0x7F800000U;
  const std::uint32_t nearest = (bits + 0x7FFFU + ((bits >> 16U) & 1U)) >> 16U;
  return {static_cast<std::uint16_t>(nan ? (bits >> 16U | 0x40U) : nearest)};
}

// avx512_bf16 makes subnormal numbers 0.
inline void store_rounded(BFloat16* p, FloatVector v) {
#if defined(INTERNVL_AVX512_BF16) && !defined(INTERNVL_EMULATED_AVX512)
  __m128i rounded;
  asm("vcvtneps2bf16 %[v], %[rounded]" : [rounded] "=v"(rounded) : [v] "v"(v.value));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), rounded);
#else
  float values[lanes];
  store(values, v);
  for (std::size_t i = 0; i < lanes; ++i) p[i] = rounded_to_bfloat16(values[i]);
#endif
}
#if defined(INTERNVL_AVX512_BF16)
inline void store_rounded(BFloat16* p, WideVector v) {
#if defined(INTERNVL_EMULATED_AVX512)
  store_rounded(p, low_half(v));
  store_rounded(p + lanes, high_half(v));
#else
  __m256i rounded;
  asm("vcvtneps2bf16 %[v], %[rounded]" : [rounded] "=v"(rounded) : [v] "v"(v.value));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), rounded);
#endif
}

// 32 integers, which bf16 holds exactly.
inline void store_widened(BFloat16* p, const std::int8_t* values) {
#if defined(INTERNVL_EMULATED_AVX512)
  for (int i = 0; i < 32; ++i) p[i] = rounded_to_bfloat16(values[i]);
#else
  const __m512i bytes = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)));
  const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_castsi512_si256(bytes)));
  const __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(bytes, 1)));
  __m512i words;
  asm("vcvtne2ps2bf16 %[low], %[high], %[words]" : [words] "=v"(words) : [low] "v"(low), [high] "v"(high));
  _mm512_storeu_si512(p, words);
#endif
}
#endif

}  // namespace internvl::INTERNVL_ISA
