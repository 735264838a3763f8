#pragma once

#include <cstddef>

#include "runtime/data_type.h"

namespace internvl {

// Elements of a row of activations that share a scale where they are rounded to int8 for integer weights: all
// of them, or a block of 32. A single channel far above the others takes the meaning from what shares its
// scale.
enum class ScaleGroup { row, block };

// The weight of a linear layer as the bundle stores it, row-major [rows, columns] = [out, in].
//
//   float32, float16, bfloat16   `values` alone
//   int8                         times float32 scales [rows]; `activations` says which of theirs it meets
//   int4                         times float16 scales [rows, columns / int4_block]; columns is a multiple of
//   it
//
// Every weight times its scale, except in int8, is exact in fp32; int8 sums are scaled once.
struct WeightMatrix {
  DataType type;
  const std::byte* values;
  const std::byte* scales;  // null where the type has none
  std::size_t rows;
  std::size_t columns;
  ScaleGroup activations = ScaleGroup::block;  // of int8 weights; int4's own scales lie by blocks
};

}  // namespace internvl
