// From fp32 to fp16: to the nearest, ties to even; subnormal numbers stay, and a NaN stays one. Included by
// kernel sources only.
#pragma once

#include "kernels/vector/float/vector.h"

namespace internvl::INTERNVL_ISA {

inline void store_rounded(Float16* p, FloatVector v) {
#if defined(INTERNVL_AVX2)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm256_cvtps_ph(v.value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(INTERNVL_NEON)
  const float16x8_t half = vcvt_high_f16_f32(vcvt_f16_f32(v.low), v.high);
  vst1q_u16(&p->bits, vreinterpretq_u16_f16(half));
#else
  for (int i = 0; i < 8; ++i) {
    std::uint32_t bits = 0;
    __builtin_memcpy(&bits, &v.lane[i], sizeof(bits));
    const auto sign = static_cast<std::uint16_t>(bits >> 16U & 0x8000U);
    const float magnitude = bits_as_float(bits & 0x7FFFFFFFU);
    if ((bits & 0x7FFFFFFFU) > 0x7F800000U) {
      p[i].bits = static_cast<std::uint16_t>(sign | 0x7E00U);
    } else if (magnitude >= 65520.0F) {
      p[i].bits = static_cast<std::uint16_t>(sign | 0x7C00U);
    } else if (magnitude < 0x1p-14F) {
      // Subnormal: a multiple of 2^-24. Adding 1.5 * 2^23 units rounds to one.
      const float units = (magnitude * 0x1p24F + 12582912.0F) - 12582912.0F;
      p[i].bits = static_cast<std::uint16_t>(sign | static_cast<std::uint16_t>(units));
    } else {
      const std::uint32_t wide = bits & 0x7FFFFFFFU;
      const std::uint32_t rounded = wide + 0xFFFU + (wide >> 13U & 1U);
      p[i].bits = static_cast<std::uint16_t>(sign | (rounded - (112U << 23U)) >> 13U);
    }
  }
#endif
}

}  // namespace internvl::INTERNVL_ISA
