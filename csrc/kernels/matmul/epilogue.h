#pragma once

#include <cstddef>

namespace internvl {

// What becomes of a value of y before it is added to what stands there, in this order. It happens while the
// sums are at hand: what stands between two matrices costs no pass over memory.
struct Epilogue {
  bool gelu = false;                   // x * Phi(x), exactly
  const float* layer_scale = nullptr;  // [n] factors, or null

  bool empty() const { return !gelu && layer_scale == nullptr; }
};

}  // namespace internvl
