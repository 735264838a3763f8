// VPDPBUSD in 256 bits, of the avx_vnni and avx512 sets. Included by their headers of integer/.
//
// It multiplies unsigned by signed bytes and adds four products to 32 bits without saturating between: int8
// weights are taken as w + 128.
#pragma once

#include "kernels/vector/integer/avx2_shared.h"

namespace internvl::INTERNVL_ISA {

constexpr int int8_weight_offset = 128;

// sum + the four products of each lane's bytes, `weights` unsigned and `x` signed. Inline assembly because
// GCC 12 copies and spills the sums around the intrinsic, which costs half of the speed; emulation has the
// intrinsic. A processor without AVX-512 has the instruction in VEX encoding alone.
[[gnu::always_inline]] inline __m256i add_products(__m256i sum, __m256i weights, __m256i x) {
#if defined(INTERNVL_EMULATED_AVX512)
  return _mm256_dpbusd_epi32(sum, weights, x);
#elif defined(INTERNVL_AVX_VNNI) && !defined(INTERNVL_AVX_VNNI_IN_EVEX)
  asm("%{vex%} vpdpbusd %[x], %[weights], %[sum]" : [sum] "+v"(sum) : [weights] "v"(weights), [x] "v"(x));
  return sum;
#else
  asm("vpdpbusd %[x], %[weights], %[sum]" : [sum] "+v"(sum) : [weights] "v"(weights), [x] "v"(x));
  return sum;
#endif
}

using Int8Columns = ByteColumns;
using Int4Columns = ByteColumns;

[[gnu::always_inline]] inline Int8Columns load_int8_columns(const std::int8_t* p, std::size_t row_bytes) {
  return load_byte_columns(p, row_bytes, -0x80);
}
[[gnu::always_inline]] inline FloatVector dot(const ByteColumns& w, const std::int8_t* x, int offset) {
  const __m256i low = broadcast_16_bytes(x);
  const __m256i high = broadcast_16_bytes(x + 16);
  __m256i quarters[4];
  for (int i = 0; i < 4; ++i) {
    const __m256i lows = add_products(_mm256_setzero_si256(), w.low[i], low);
    quarters[i] = add_products(lows, w.high[i], high);
  }
  return row_sums(quarters, offset);
}

}  // namespace internvl::INTERNVL_ISA
