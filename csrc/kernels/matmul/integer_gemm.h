// y = x W^T for many quantised rows of x and integer weights. Weights are unpacked one panel at a time into
// the order in which the processor's dot products take them; the whole matrix is never unpacked.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/dispatch.h"
#include "kernels/matmul/epilogue.h"
#include "kernels/matmul/linear_rows.h"
#include "kernels/matmul/row_pieces.h"
#include "kernels/matmul/weight_matrix.h"
#include "kernels/quantise/quantised_rows.h"

namespace internvl {

// Rows of W in a panel, and the elements of k that it spans: 64 KB of unpacked int4, and of int8 where its
// elements stay bytes.
inline constexpr std::size_t integer_panel_columns = 64;
inline constexpr std::size_t integer_panel_depth = 1024;
inline constexpr std::size_t most_panel_element_bytes = 2;
// The most rows of x that are taken past a panel before it is unpacked again.
inline constexpr std::size_t integer_gemm_rows = 54 * row_piece_step;
// Rows of x and of the sums are those of whole groups: of pairs where the processor multiplies matrices, of
// sixteen where it does so in tiles. What stands in the rows behind the last one does not matter.
inline constexpr std::size_t most_row_group = 16;
// The longest row whose sum of products, 255 * 127 at most, fits 32 bits.
inline constexpr std::size_t most_integer_columns = 65536;

// The memory of one thread.
struct IntegerPanel {
  std::int8_t* weights;  // [panel_depth * element_bytes / word, panel_columns, word], element_bytes 1 or 2
  float* scales;         // int4: [panel_depth / 32, panel_columns]
  std::int32_t* sums;    // rows with one scale: [gemm_rows, panel_columns], rows rounded up to a group
  float* totals;         // others: alike
};

// Elements of a gated row that one panel gives: half of its columns are rows of gate, half the same ones of
// up.
inline constexpr std::size_t gated_columns = integer_panel_columns / 2;
static_assert(gated_columns == quantised_block);

struct IntegerGemmKernels {
  // Computes columns [begin, begin + n) of rows [first, first + x.rows) of job.y, n <= integer_panel_columns,
  // x.rows <= integer_gemm_rows; x stands in place of those rows of job.x.
  void (*multiply)(const QuantisedRows& x, std::size_t first, const LinearRows& job, const WeightMatrix& w,
                   const Epilogue& epilogue, std::size_t begin, std::size_t n, const IntegerPanel& panel);
  // Computes elements [begin, begin + n), a block, of as many rows silu(gate) * up of out: gate is the first
  // half of x . w [2 * out.columns, k], up the second. They are quantised while they are at hand, to the bits
  // that QuantiseKernels and ActivationKernels give. After the last block come zeros up to quantised_step.
  void (*multiply_gated)(const QuantisedRows& x, std::size_t first, const WeightMatrix& w,
                         const QuantisedOutput& out, std::size_t begin, std::size_t n,
                         const IntegerPanel& panel);
};

const IntegerGemmKernels& integer_gemm_kernels(Features features);

}  // namespace internvl
