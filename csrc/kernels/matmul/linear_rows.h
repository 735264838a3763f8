#pragma once

#include <cstddef>

#include "kernels/vector/storage.h"

namespace internvl {

// y[r, n] (+)= x[r, :] . w[n, :] (+ bias[n])
struct LinearRows {
  const float* x;  // [rows, k] at a distance of x_stride
  std::size_t x_stride;
  std::size_t rows;
  const float* bias;  // [n], or null
  bool accumulate;    // add to what stands in y
  float* y;           // [rows, n] at a distance of y_stride
  std::size_t y_stride;
  BFloat16* rounded_y = nullptr;  // where it is not null, it takes the place of y
};

}  // namespace internvl
