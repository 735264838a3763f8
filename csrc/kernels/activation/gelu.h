// GELU in its exact form, x * Phi(x) with the normal distribution's Phi (Hendrycks and Gimpel 2016), which is
// what the InternVL family's towers and projectors use. Included by kernel sources only.
#pragma once

#include "kernels/vector/float/vector.h"

namespace internvl::INTERNVL_ISA {

// With a = |x| and h = a^2 / 2: an error of at most (h + 32) 2^-24 of the tail a * Phi(-a), and two roundings
// of the result. So negative values keep their leading digits too, unlike those of 0.5 x (1 + erf(x / sqrt
// 2)).
inline FloatVector gelu(FloatVector x) {
  // Phi(-14) is 0 in fp32. NaN is the second operand, and so passes.
  constexpr float farthest = 14.0F;
  const FloatVector zero = broadcast(0.0F);
  const FloatVector a = min(broadcast(farthest), max(x, zero - x));
  // Phi(-a) exp(a^2 / 2) as a quotient of polynomials, by Lawson's iteration (weighted least squares until
  // the errors are level) on 0 <= a <= 13.3: relative error below 2^-24. All coefficients are positive, so
  // nothing cancels.
  FloatVector p = broadcast(0.004020268F);
  p = fma(p, a, broadcast(0.039984696F));
  p = fma(p, a, broadcast(0.1813083F));
  p = fma(p, a, broadcast(0.43568838F));
  p = fma(p, a, broadcast(0.5F));
  FloatVector q = broadcast(0.010077174F);
  q = fma(q, a, broadcast(0.10023414F));
  q = fma(q, a, broadcast(0.4643844F));
  q = fma(q, a, broadcast(1.1944906F));
  q = fma(q, a, broadcast(1.6692617F));
  q = fma(q, a, broadcast(1.0F));
  const FloatVector tail = exp(broadcast(-0.5F) * a * a) * (p / q);
  // x Phi(x) = x - x Phi(-x) where x > 0, and x Phi(-|x|) where x < 0.
  return max(zero, x) - a * tail;
}

}  // namespace internvl::INTERNVL_ISA
