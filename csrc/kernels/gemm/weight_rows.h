// The rows of a weight matrix by its type. Included by kernel sources only.
#pragma once

#include "kernels/gemm/dot_tile.h"
#include "kernels/gemm/weight_matrix.h"

namespace internvl::INTERNVL_ISA {

template <class T>
struct PlainRows {
  using Row = PlainRow<T>;
  const T* values;
  std::size_t columns;

  Row row(std::size_t n) const { return {values + n * columns}; }
  float scale(std::size_t) const { return 1.0F; }
};

struct Int8Rows {
  using Row = PlainRow<std::int8_t>;
  const std::int8_t* values;
  const float* scales;
  std::size_t columns;

  Row row(std::size_t n) const { return {values + n * columns}; }
  float scale(std::size_t n) const { return scales[n]; }
};

struct Int4Rows {
  using Row = Int4Row;
  const std::uint8_t* values;
  const Float16* scales;
  std::size_t columns;

  Row row(std::size_t n) const { return {values + n * columns / 2, scales + n * columns / 32}; }
  float scale(std::size_t) const { return int4_unit; }
};

inline Int8Rows int8_rows(const WeightMatrix& w) {
  return {static_cast<const std::int8_t*>(static_cast<const void*>(w.values)),
          static_cast<const float*>(static_cast<const void*>(w.scales)), w.columns};
}
inline Int4Rows int4_rows(const WeightMatrix& w) {
  return {static_cast<const std::uint8_t*>(static_cast<const void*>(w.values)),
          static_cast<const Float16*>(static_cast<const void*>(w.scales)), w.columns};
}

// Calls function(rows) with the rows of `w` as one of the above.
template <class Function>
inline void with_rows_of(const WeightMatrix& w, Function function) {
  const void* values = w.values;
  switch (w.type) {
    case DataType::float32:
      return function(PlainRows<float>{static_cast<const float*>(values), w.columns});
    case DataType::float16:
      return function(PlainRows<Float16>{static_cast<const Float16*>(values), w.columns});
    case DataType::bfloat16:
      return function(PlainRows<BFloat16>{static_cast<const BFloat16*>(values), w.columns});
    case DataType::int8:
      return function(int8_rows(w));
    case DataType::int4:
      return function(int4_rows(w));
  }
}

}  // namespace internvl::INTERNVL_ISA
