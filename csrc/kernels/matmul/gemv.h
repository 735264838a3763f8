// y = x W^T for one to four rows of x and weights in fp32, fp16 or bf16: reads every weight once, at the
// memory's speed.
#pragma once

#include <cstddef>

#include "kernels/dispatch.h"
#include "kernels/matmul/linear_rows.h"
#include "kernels/matmul/weight_matrix.h"

namespace internvl {

// The most rows of x that the kernel takes.
inline constexpr std::size_t gemv_rows = 4;

struct GemvKernels {
  // Computes columns [begin, end) of y.
  void (*multiply)(const LinearRows& job, const WeightMatrix& w, std::size_t begin, std::size_t end);
};

const GemvKernels& gemv_kernels(Features features);

}  // namespace internvl
