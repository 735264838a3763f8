// The rows of a weight matrix in fp32, fp16 or bf16 by its type. Included by kernel sources only.
#pragma once

#include "kernels/matmul/dot_tile.h"
#include "kernels/matmul/weight_matrix.h"

namespace internvl::INTERNVL_ISA {

template <class T>
struct PlainRows {
  using Row = PlainRow<T>;
  const T* values;
  std::size_t columns;

  Row row(std::size_t n) const { return {values + n * columns}; }
};

// Calls function(rows) with the rows of `w` as one of the above.
template <class Function>
inline void with_rows_of(const WeightMatrix& w, Function function) {
  switch (w.type) {
    case DataType::float32:
      return function(PlainRows<float>{reinterpret_cast<const float*>(w.values), w.columns});
    case DataType::float16:
      return function(PlainRows<Float16>{reinterpret_cast<const Float16*>(w.values), w.columns});
    case DataType::bfloat16:
      return function(PlainRows<BFloat16>{reinterpret_cast<const BFloat16*>(w.values), w.columns});
    case DataType::int8:
    case DataType::int4:
      return;  // multiplied as integers
  }
}

}  // namespace internvl::INTERNVL_ISA
