// Dot products of bf16 elements, under one interface for every instruction set.
//
//   BFloat16Vector         bfloat16_step elements; load_bfloat16(p), load_bfloat16(p, remaining): 0 in the
//                          others
//   PairSums               fp32 sums; zero_pair_sums(), dot(sum, a, b) adds products to every lane
//   folded(sums)           as a FloatVector
//
// avx512 multiplies pairs, which not every processor of this set can: its code here is for avx512_bf16 alone
// (see bfloat16_gemm.h). A pair's products are taken one after the other, subnormal numbers as 0. The
// instruction is inline assembly: the compiler need not know of it, so that it needs no further build of
// every kernel, and GCC 12 does not spill the sums.
//
// Included by kernel sources only.
#pragma once

#include "kernels/vector/float_vector.h"

namespace internvl::INTERNVL_ISA {

#if defined(INTERNVL_ISA_avx512)

constexpr std::size_t bfloat16_step = 32;
// Rows of x and rows of W whose dot products a GEMM keeps in registers at once: 24 of 32 registers.
constexpr int pair_tile_rows = 6;
constexpr int pair_tile_columns = 4;

struct BFloat16Vector {
  __m512i value;
};
struct PairSums {
  __m512 value;
};

inline BFloat16Vector load_bfloat16(const BFloat16* p) { return {_mm512_loadu_si512(p)}; }
inline PairSums zero_pair_sums() { return {_mm512_setzero_ps()}; }
[[gnu::always_inline]] inline PairSums dot(PairSums sum, BFloat16Vector a, BFloat16Vector b) {
#if defined(INTERNVL_EMULATED_AVX512)
  BFloat16 as[32];
  BFloat16 bs[32];
  float sums[16];
  __builtin_memcpy(as, &a, sizeof(as));
  __builtin_memcpy(bs, &b, sizeof(bs));
  __builtin_memcpy(sums, &sum, sizeof(sums));
  const auto wide = [](BFloat16 x) {
    const std::uint32_t bits = static_cast<std::uint32_t>(x.bits) << 16U;
    float value = 0;
    __builtin_memcpy(&value, &bits, sizeof(value));
    return value;
  };
  for (int i = 0; i < 16; ++i) {
    sums[i] += wide(as[2 * i + 1]) * wide(bs[2 * i + 1]);
    sums[i] += wide(as[2 * i]) * wide(bs[2 * i]);
  }
  __builtin_memcpy(&sum, sums, sizeof(sums));
#else
  asm("vdpbf16ps %[b], %[a], %[sum]" : [sum] "+v"(sum.value) : [a] "v"(a.value), [b] "v"(b.value));
#endif
  return sum;
}
inline FloatVector folded(PairSums sums) {
  const __m512i words = _mm512_castps_si512(sums.value);
  return {_mm256_add_ps(_mm512_castps512_ps256(sums.value),
                        _mm256_castsi256_ps(_mm512_extracti64x4_epi64(words, 1)))};
}

#else

constexpr std::size_t bfloat16_step = 8;
constexpr int pair_tile_rows = tile_rows;
constexpr int pair_tile_columns = tile_columns;

using BFloat16Vector = FloatVector;
using PairSums = FloatVector;

inline BFloat16Vector load_bfloat16(const BFloat16* p) { return load(p); }
inline PairSums zero_pair_sums() { return broadcast(0.0F); }
[[gnu::always_inline]] inline PairSums dot(PairSums sum, BFloat16Vector a, BFloat16Vector b) {
  return fma(a, b, sum);
}
inline FloatVector folded(PairSums sums) { return sums; }

#endif

inline BFloat16Vector load_bfloat16(const BFloat16* p, std::size_t remaining) {
  BFloat16 first[bfloat16_step] = {};
  for (std::size_t i = 0; i < bfloat16_step && i < remaining; ++i) first[i] = p[i];
  return load_bfloat16(first);
}

}  // namespace internvl::INTERNVL_ISA
