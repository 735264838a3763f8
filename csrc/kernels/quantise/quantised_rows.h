// Activations as integers: what a matrix of int8 or int4 weights is multiplied with.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/matmul/weight_matrix.h"

namespace internvl {

// How a row is rounded: with one scale, with one for every block of 32 elements (the last block may be
// shorter), or with one for every block, in which the sixteen even elements come before the odd ones, as int4
// weights are unpacked.
enum class RowForm { whole, blocks, split_blocks };

// How x is rounded for integer weights.
constexpr RowForm row_form(const WeightMatrix& w) {
  if (w.type == DataType::int4) return RowForm::split_blocks;
  return w.activations == ScaleGroup::row ? RowForm::whole : RowForm::blocks;
}

// Elements that share a scale in a form of blocks.
inline constexpr std::size_t quantised_block = int4_block;
// Rows are filled up with zeros to a multiple of this many elements.
inline constexpr std::size_t quantised_step = 64;

// x[r, k] is about values[r, k] * scales[r, group of k], with an error of at most half a scale (and a few
// units in the last place): symmetric, a group's greatest magnitude is 127, rounded to the nearest, ties to
// even.
struct QuantisedRows {
  const std::int8_t* values;  // [rows, stride], -127 to 127
  std::size_t stride;
  const float* scales;  // [rows, groups]
  const std::int32_t*
      starts;  // [rows, groups], what a group's sum of products begins with: kernels add a number
               // to weights that makes them unsigned, and its products are taken away here
  std::size_t groups;
  std::size_t rows;
  std::size_t columns;
  RowForm form;

  QuantisedRows from(std::size_t row) const {
    return {values + row * stride,
            stride,
            scales + row * groups,
            starts + row * groups,
            groups,
            rows - row,
            columns,
            form};
  }
  QuantisedRows first(std::size_t count) const {
    QuantisedRows some = *this;
    some.rows = count;
    return some;
  }
};

// The same where it is written: rows of `columns` elements, in a form of blocks.
struct QuantisedOutput {
  std::int8_t* values;
  std::size_t stride;
  float* scales;
  std::int32_t* starts;
  std::size_t groups;
  std::size_t columns;
  RowForm form;
};

}  // namespace internvl
