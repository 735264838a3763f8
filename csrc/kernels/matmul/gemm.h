// y = x W^T for many rows of x and weights in fp32, fp16 or bf16. Weights are unpacked to fp32 one panel at a
// time, which stays in the cache while every row of x meets it; the whole matrix is never unpacked.
#pragma once

#include <cstddef>

#include "kernels/dispatch.h"
#include "kernels/matmul/epilogue.h"
#include "kernels/matmul/linear_rows.h"
#include "kernels/matmul/row_pieces.h"
#include "kernels/matmul/weight_matrix.h"

namespace internvl {

// Rows of W in a panel, and the elements of k that it spans: 192 KB of fp32.
inline constexpr std::size_t panel_rows = 48;
inline constexpr std::size_t panel_depth = 1024;
inline constexpr std::size_t panel_elements = panel_rows * panel_depth;
// The most rows of x that are taken past a panel before it is unpacked again.
inline constexpr std::size_t gemm_rows = 24 * row_piece_step;

struct GemmKernels {
  // Unpacks elements [k, k + depth) of rows [n, n + rows) of W to fp32: panel [rows, panel_depth].
  void (*unpack)(const WeightMatrix& w, std::size_t n, std::size_t rows, std::size_t k, std::size_t depth,
                 float* panel);
  // sums[m, n] (+)= x[m, :] . panel[n, :], over `depth` elements; sums are at a distance of panel_rows.
  void (*multiply)(const float* x, std::size_t x_stride, std::size_t m, const float* panel, std::size_t n,
                   std::size_t depth, bool accumulate, float* sums);
  // job.y[first + m, begin + n] (+)= epilogue(sums[m, n] (+ bias)), for the rows [begin, begin + n) of W.
  void (*finish)(const float* sums, std::size_t sums_stride, std::size_t m, std::size_t begin, std::size_t n,
                 const LinearRows& job, std::size_t first, const Epilogue& epilogue);
};

const GemmKernels& gemm_kernels(Features features);

}  // namespace internvl
