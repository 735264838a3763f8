#pragma once

#include <cstddef>

#include "runtime/data_type.h"

namespace internvl {

// Neighbours in a row of int4 weights that share a scale.
inline constexpr std::size_t int4_block = 32;

// The weight of a linear layer as the bundle stores it, row-major [rows, columns] = [out, in].
//
//   float32, float16, bfloat16   `values` alone
//   int8                         times float32 scales [rows]
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
};

}  // namespace internvl
