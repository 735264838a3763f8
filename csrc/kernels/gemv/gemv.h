// y = x W^T for one to four rows of x: reads every weight once, at the memory's speed.
#pragma once

#include <cstddef>

#include "kernels/dispatch.h"
#include "kernels/gemm/weight_matrix.h"

namespace internvl {

// The most rows of x that the kernel takes.
inline constexpr std::size_t gemv_rows = 4;

// y[r, n] (+)= x[r, :] . w[n, :] (+ bias[n])
struct LinearRows {
  const float* x;  // [rows, k] at a distance of x_stride; interleaved for int4 (see gemm.h)
  std::size_t x_stride;
  std::size_t rows;
  const float* bias;  // [n], or null
  bool accumulate;    // add to what stands in y
  float* y;           // [rows, n] at a distance of y_stride
  std::size_t y_stride;
};

struct GemvKernels {
  // Computes columns [begin, end) of y.
  void (*multiply)(const LinearRows& job, const WeightMatrix& w, std::size_t begin, std::size_t end);
};

INTERNVL_DECLARE_KERNELS(GemvKernels, gemv_kernels)

}  // namespace internvl
