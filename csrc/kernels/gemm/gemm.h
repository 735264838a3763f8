// y = x W^T for many rows of x. Weights are unpacked to fp32 one panel at a time, which stays in the cache
// while every row of x meets it; the whole matrix is never unpacked.
#pragma once

#include <cstddef>

#include "kernels/dispatch.h"
#include "kernels/gemm/epilogue.h"
#include "kernels/gemm/row_pieces.h"
#include "kernels/gemm/weight_matrix.h"

namespace internvl {

// Rows of W in a panel, and the elements of k that it spans: 192 KB of fp32.
inline constexpr std::size_t panel_rows = 48;
inline constexpr std::size_t panel_depth = 1024;
inline constexpr std::size_t panel_elements = panel_rows * panel_depth;
// The most rows of x that are taken past a panel before it is unpacked again.
inline constexpr std::size_t gemm_rows = 24 * row_piece_step;

struct GemmKernels {
  // Elements of k in an interleaved row of k int4 activations: k rounded up to a multiple of 64.
  // Copies rows of x into the order in which int4 weights are unpacked, the end filled with zeros.
  void (*interleave_int4)(const float* x, std::size_t x_stride, std::size_t rows, std::size_t k, float* out,
                          std::size_t out_stride);
  // Unpacks elements [k, k + depth) of rows [n, n + rows) of W to fp32, in units of their scale for int8 and
  // of 2^-28 for int4: panel [rows, panel_depth].
  void (*unpack)(const WeightMatrix& w, std::size_t n, std::size_t rows, std::size_t k, std::size_t depth,
                 float* panel);
  // sums[m, n] (+)= x[m, :] . panel[n, :], over `depth` elements; sums are at a distance of panel_rows.
  void (*multiply)(const float* x, std::size_t x_stride, std::size_t m, const float* panel, std::size_t n,
                   std::size_t depth, bool accumulate, float* sums);
  // y[m, n] (+)= epilogue(sums[m, n] * scale of W's row (+ bias)), for the rows [begin, begin + n) of W.
  void (*finish)(const WeightMatrix& w, const float* sums, std::size_t m, std::size_t begin, std::size_t n,
                 const float* bias, const Epilogue& epilogue, bool accumulate, float* y,
                 std::size_t y_stride);
};

INTERNVL_DECLARE_KERNELS(GemmKernels, gemm_kernels)

}  // namespace internvl
