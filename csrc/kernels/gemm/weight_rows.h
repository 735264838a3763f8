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

template <class T>
const T* values_of(const std::byte* bytes) {
  return reinterpret_cast<const T*>(bytes);
}

inline Int8Rows int8_rows(const WeightMatrix& w) {
  return {values_of<std::int8_t>(w.values), values_of<float>(w.scales), w.columns};
}
inline Int4Rows int4_rows(const WeightMatrix& w) {
  return {values_of<std::uint8_t>(w.values), values_of<Float16>(w.scales), w.columns};
}

// Calls function(rows) with the rows of `w` as one of the above.
template <class Function>
inline void with_rows_of(const WeightMatrix& w, Function function) {
  switch (w.type) {
    case DataType::float32:
      return function(PlainRows<float>{values_of<float>(w.values), w.columns});
    case DataType::float16:
      return function(PlainRows<Float16>{values_of<Float16>(w.values), w.columns});
    case DataType::bfloat16:
      return function(PlainRows<BFloat16>{values_of<BFloat16>(w.values), w.columns});
    case DataType::int8:
      return function(int8_rows(w));
    case DataType::int4:
      return function(int4_rows(w));
  }
}

}  // namespace internvl::INTERNVL_ISA
