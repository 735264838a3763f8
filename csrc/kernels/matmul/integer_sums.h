// What becomes of the sums of integer products, for one row as for many. Included by kernel sources only.
//
// Rows with one scale: the sum over k is one int32, exact, and so the same in any order; it is scaled once by
// the row's scale and once by the weights'.
//
// Rows in blocks: the sum over a block of 32 is an int32, exact. Blocks are added in fp32 in their order, one
// fused multiply-add each: total = sum * scale + total, the scale being that of x's block for int8 weights,
// whose own scale meets the total, and (scale of x * scale of w) for int4 weights.
//
// So a result depends on its two rows alone: not on how many rows are computed at once, nor on threads, nor
// on whether weights were unpacked before.
#pragma once

#include "kernels/matmul/linear_rows.h"
#include "kernels/matmul/weight_matrix.h"
#include "kernels/quantise/quantised_rows.h"
#include "kernels/vector/float/vector.h"
#include "kernels/vector/integer/vector.h"

namespace internvl::INTERNVL_ISA {

struct Int8Rows {
  const std::int8_t* values;
  const float* scales;  // one a row
  std::size_t columns;

  const std::int8_t* row(std::size_t n) const { return values + n * columns; }
};

struct Int4Rows {
  const std::uint8_t* values;
  const Float16* scales;  // one for every int4_block
  std::size_t columns;

  const std::uint8_t* row(std::size_t n) const { return values + n * columns / 2; }
  const Float16* row_scales(std::size_t n) const { return scales + n * columns / int4_block; }
};

inline Int8Rows int8_rows(const WeightMatrix& w) {
  return {reinterpret_cast<const std::int8_t*>(w.values), reinterpret_cast<const float*>(w.scales),
          w.columns};
}
inline Int4Rows int4_rows(const WeightMatrix& w) {
  return {reinterpret_cast<const std::uint8_t*>(w.values), reinterpret_cast<const Float16*>(w.scales),
          w.columns};
}

// The fp32 scales of `count` <= 8 blocks of eight rows of W: scales[block][row].
inline void load_block_scales(const Float16* p, std::size_t row_scales, std::size_t count,
                              FloatVector (&scales)[8]) {
  for (std::size_t i = 0; i < 8; ++i) {
    scales[i] = count < 8 ? load(p + i * row_scales, count) : load(p + i * row_scales);
  }
  transpose(scales);
}

// What becomes of a finished sum: the same operations in the same order everywhere.
inline float finished(float sum, float scale, const float* bias, const float* addend) {
  float value = sum * scale;
  if (bias != nullptr) value += *bias;
  if (addend != nullptr) value += *addend;
  return value;
}

// Computes job.y[row, n + c] for c < count from finished totals; int8's are still without the weights'
// scales.
inline void finish_totals(const float* totals, const Int8Rows& w, const LinearRows& job, std::size_t row,
                          std::size_t n, std::size_t count) {
  float* y = job.y + row * job.y_stride + n;
  for (std::size_t c = 0; c < count; ++c) {
    y[c] = finished(totals[c], w.scales[n + c], job.bias == nullptr ? nullptr : job.bias + n + c,
                    job.accumulate ? y + c : nullptr);
  }
}
inline void finish_totals(const float* totals, const Int4Rows&, const LinearRows& job, std::size_t row,
                          std::size_t n, std::size_t count) {
  float* y = job.y + row * job.y_stride + n;
  for (std::size_t c = 0; c < count; ++c) {
    y[c] = finished(totals[c], 1.0F, job.bias == nullptr ? nullptr : job.bias + n + c,
                    job.accumulate ? y + c : nullptr);
  }
}

}  // namespace internvl::INTERNVL_ISA
