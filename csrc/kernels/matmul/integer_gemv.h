// y = x W^T for quantised rows of x in blocks and integer weights, read once from where the bundle stores
// them.
#pragma once

#include <cstddef>

#include "kernels/dispatch.h"
#include "kernels/matmul/linear_rows.h"
#include "kernels/matmul/weight_matrix.h"
#include "kernels/quantise/quantised_rows.h"

namespace internvl {

// The most rows of x that the kernel takes.
inline constexpr std::size_t integer_gemv_rows = 16;

struct IntegerGemvKernels {
  // Computes columns [begin, end) of job.y; x stands in place of job.x. The same bits as the GEMM's.
  void (*multiply)(const QuantisedRows& x, const LinearRows& job, const WeightMatrix& w, std::size_t begin,
                   std::size_t end);
};

const IntegerGemvKernels& integer_gemv_kernels(Features features);

}  // namespace internvl
