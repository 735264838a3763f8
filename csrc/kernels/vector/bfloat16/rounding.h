// From fp32 to bf16: to the nearest, ties to even, NaN stays NaN. Included by kernel sources only.
#pragma once

#include "kernels/vector/float/vector.h"

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

}  // namespace internvl::INTERNVL_ISA
