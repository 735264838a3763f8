// Eight fp32 lanes under one interface for every instruction set, so that a kernel is written once.
//
//   FloatVector            eight lanes, whatever the width of a register
//   load(p)                eight elements of float, Float16, BFloat16 or int8, as fp32
//   load(p, remaining)     the first `remaining` elements, the other lanes 0; reads nothing behind them
//   store(p, v), store(p, v, remaining)
//   broadcast(x), fma(a, b, c) = a * b + c, + - * /, min, max, exp
//   reduce_add(v)          ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)): the same tree everywhere
//   reduce_add4(a, b, c, d, sums)   four such sums at once, bit for bit the same
//   reduce_max(v)
//
// The lanes and the trees are part of the contract: they make a sum's order depend on its length alone.
// fma rounds once where the processor has it (avx2, neon) and twice in the portable set.
//
// This header is included by kernel sources only; everything lies in namespace internvl::INTERNVL_ISA, so
// that no code compiled for one instruction set is ever linked into another.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/vector/storage.h"

#if defined(INTERNVL_AVX2)
#include "kernels/vector/float/avx2.h"
#elif defined(INTERNVL_NEON)
#include "kernels/vector/float/neon.h"
#else
#include "kernels/vector/float/portable.h"
#endif

namespace internvl::INTERNVL_ISA {

// Lanes of a FloatVector.
constexpr std::size_t lanes = 8;

// exp with an error of at most 2 units in the last place for -87 <= x <= 88; 0 below and exp(88) above.
inline FloatVector exp(FloatVector x) {
  constexpr float lowest = -87.0F;
  constexpr float highest = 88.0F;
  constexpr float log2_e = 1.44269504F;
  // ln 2 in two parts: n * ln2_high is exact for every n that occurs.
  constexpr float ln2_high = 0.693359375F;
  constexpr float ln2_low = -2.12194440e-4F;
  // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
  constexpr float rounder = 12582912.0F;
  // NaN is the second operand, and so passes through min and max.
  const FloatVector bounded = min(broadcast(highest), max(broadcast(lowest), x));
  const FloatVector n = fma(bounded, broadcast(log2_e), broadcast(rounder)) - broadcast(rounder);
  const FloatVector r = fma(n, broadcast(-ln2_low), fma(n, broadcast(-ln2_high), bounded));
  // (e^r - 1 - r) / r^2 on |r| <= ln(2) / 2 by the Remez algorithm, relative error of e^r below 2^-28.
  FloatVector q = broadcast(0.00138145406F);
  q = fma(q, r, broadcast(0.00836874545F));
  q = fma(q, r, broadcast(0.0416683890F));
  q = fma(q, r, broadcast(0.166665211F));
  q = fma(q, r, broadcast(0.499999940F));
  const FloatVector power = fma(q, r * r, r) + broadcast(1.0F);
  return zero_where_less(x, broadcast(lowest), times_power_of_two(power, n));
}

}  // namespace internvl::INTERNVL_ISA
