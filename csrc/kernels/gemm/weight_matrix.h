#pragma once

#include <cstddef>

#include "runtime/data_type.h"

namespace internvl {

// The weight of a linear layer as the bundle stores it, row-major [rows, columns] = [out, in].
//
//   float32, float16, bfloat16   `values` alone
//   int8                         times float32 scales [rows]
//   int4                         times float16 scales [rows, columns / 32]; columns is a multiple of 32
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
