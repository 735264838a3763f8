// Integer arithmetic in plain loops. Included by integer/vector.h, where the interface is described.
#pragma once

namespace internvl::INTERNVL_ISA {

constexpr std::size_t sum_lanes = 8;
constexpr int int8_weight_offset = 0;
constexpr int int4_weight_offset = 8;
constexpr int block_tile_rows = 2;
constexpr int block_tile_vectors = 1;
constexpr int row_tile_rows = block_tile_rows;
constexpr int row_tile_vectors = block_tile_vectors;

struct Int32Vector {
  std::int32_t lane[8];
};
struct Int8Vector {
  std::int8_t element[32];
};
using Int8Weights = Int8Vector;

inline Int32Vector broadcast_sum(std::int32_t x) {
  Int32Vector v;
  for (std::int32_t& lane : v.lane) lane = x;
  return v;
}
inline Int32Vector load_sums(const std::int32_t* p) {
  Int32Vector v;
  for (int i = 0; i < 8; ++i) v.lane[i] = p[i];
  return v;
}
inline void store_sums(std::int32_t* p, Int32Vector v) {
  for (int i = 0; i < 8; ++i) p[i] = v.lane[i];
}
inline Int8Vector load_int8(const std::int8_t* p) {
  Int8Vector v;
  for (int i = 0; i < 32; ++i) v.element[i] = p[i];
  return v;
}
inline Int8Vector broadcast_four(const std::int8_t* p) {
  Int8Vector v;
  for (int i = 0; i < 32; ++i) v.element[i] = p[i % 4];
  return v;
}
inline Int8Weights int8_weights(Int8Vector w) { return w; }
inline Int32Vector dot(Int32Vector sum, const Int8Weights& w, const Int8Vector& x) {
  for (int lane = 0; lane < 8; ++lane) {
    for (int i = 4 * lane; i < 4 * lane + 4; ++i) sum.lane[lane] += w.element[i] * x.element[i];
  }
  return sum;
}

using NibbleSums = Int32Vector;
inline NibbleSums begin_nibble_sums(std::int32_t) { return broadcast_sum(0); }
inline NibbleSums dot_nibbles(NibbleSums sum, const Int8Vector& w, const Int8Vector& x) {
  return dot(sum, w, x);
}
inline Int32Vector total(NibbleSums sum, std::int32_t offset) {
  for (std::int32_t& lane : sum.lane) lane += offset;
  return sum;
}

inline void expand_int4(const std::uint8_t* p, std::int8_t* out) {
  for (int i = 0; i < 16; ++i) {
    out[i] = static_cast<std::int8_t>((p[i] & 15U) ^ 8U);
    out[i + 16] = static_cast<std::int8_t>((static_cast<unsigned>(p[i]) >> 4U) ^ 8U);
  }
}

struct ByteColumns {
  std::int8_t row[8][32];
};
using Int8Columns = ByteColumns;
using Int4Columns = ByteColumns;
inline Int8Columns load_int8_columns(const std::int8_t* p, std::size_t row_bytes) {
  Int8Columns columns;
  for (std::size_t i = 0; i < 8; ++i) __builtin_memcpy(columns.row[i], p + i * row_bytes, 32);
  return columns;
}
inline Int4Columns load_int4_columns(const std::uint8_t* p, std::size_t row_bytes) {
  Int4Columns columns;
  for (std::size_t i = 0; i < 8; ++i) expand_int4(p + i * row_bytes, columns.row[i]);
  return columns;
}
// Rows of x are few enough for the same form.
using Int8ColumnWords = ByteColumns;
using Int4ColumnWords = ByteColumns;
inline Int8ColumnWords load_int8_column_words(const std::int8_t* p, std::size_t row_bytes) {
  return load_int8_columns(p, row_bytes);
}
inline Int4ColumnWords load_int4_column_words(const std::uint8_t* p, std::size_t row_bytes) {
  return load_int4_columns(p, row_bytes);
}
inline FloatVector dot(const ByteColumns& w, const std::int8_t* x, int offset) {
  return each_lane([&](int row) {
    std::int32_t sum = offset;
    for (int i = 0; i < 32; ++i) sum += w.row[row][i] * x[i];
    return static_cast<float>(sum);
  });
}

inline void transpose(FloatVector (&rows)[8]) {
  for (int i = 0; i < 8; ++i) {
    for (int j = i + 1; j < 8; ++j) {
      const float above = rows[i].lane[j];
      rows[i].lane[j] = rows[j].lane[i];
      rows[j].lane[i] = above;
    }
  }
}

inline void store_words_transposed(const std::int8_t* rows, std::size_t stride, std::int8_t* out,
                                   std::size_t out_stride) {
  for (std::size_t i = 0; i < 8; ++i) {
    for (std::size_t j = 0; j < 8; ++j)
      __builtin_memcpy(out + j * out_stride + 4 * i, rows + i * stride + 4 * j, 4);
  }
}

inline std::int8_t rounded(float x) {
  // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, ties to even.
  return static_cast<std::int8_t>((x + 12582912.0F) - 12582912.0F);
}
inline void store_rounded(std::int8_t* out, const FloatVector (&v)[4]) {
  for (int i = 0; i < 32; ++i) out[i] = rounded(v[i / 8].lane[i % 8]);
}
inline void store_rounded_split(std::int8_t* out, const FloatVector (&v)[4]) {
  for (int i = 0; i < 32; ++i) out[i / 2 + (i % 2) * 16] = rounded(v[i / 8].lane[i % 8]);
}

using ColumnFloats = FloatVector;
inline ColumnFloats broadcast_columns(float x) { return broadcast(x); }
inline ColumnFloats load_columns(const float* p) { return load(p); }
inline void store_columns(float* p, ColumnFloats v) { store(p, v); }
inline ColumnFloats to_float(Int32Vector v) {
  return each_lane([&](int i) { return static_cast<float>(v.lane[i]); });
}

}  // namespace internvl::INTERNVL_ISA

#include "kernels/vector/integer/eight_column_words.h"
#include "kernels/vector/integer/panel_bytes.h"

// After the panels that it is written over.
#include "kernels/vector/integer/expanded_nibbles.h"
