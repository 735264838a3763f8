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
#elif defined(INTERNVL_AVX2)
  const __m256i bits = _mm256_castps_si256(v.value);
  const __m256i high = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i nearest =
      _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd), 16);
  const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v.value, v.value, _CMP_UNORD_Q));
  const __m256i rounded = _mm256_blendv_epi8(nearest, quiet, nan);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1)));
#else
  float values[lanes];
  store(values, v);
  for (std::size_t i = 0; i < lanes; ++i) p[i] = rounded_to_bfloat16(values[i]);
#endif
}
// The first `remaining` lanes.
inline void store_rounded(BFloat16* p, FloatVector v, std::size_t remaining) {
  BFloat16 all[lanes];
  store_rounded(all, v);
  for (std::size_t i = 0; i < lanes && i < remaining; ++i) p[i] = all[i];
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
