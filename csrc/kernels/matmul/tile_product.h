// Many rows of x with a panel of words, in tiles: what the GEMMs of bf16 and of int8 have in common. Included
// by kernel sources only.
//
// Rows and columns are whole tiles of 16: rows of x are read, and those of the sums written, up to a multiple
// of that. What becomes of a row or a column depends on nothing of the others.
#pragma once

#include "kernels/vector/tile/vector.h"

namespace internvl::INTERNVL_ISA {

// Rows and columns of a tile of sums, which are of four bytes.
constexpr std::size_t tile_side = 16;
constexpr std::size_t tile_bytes = most_tile_row_bytes;

// Tiles of words, those of 16 columns one after the other in the order of k.
struct TilePanel {
  const void* words;
  std::size_t column_bytes;  // from 16 columns to the next 16
};

// Rows * Columns tiles of sums, of two by two at most: each tile that is loaded meets two. x, its stride and
// sums_stride are in bytes; a step is a tile of x.
template <int Rows, int Columns, class Products>
[[gnu::always_inline]] inline void multiply_tile_block(const char* x, std::size_t x_stride, const char* panel,
                                                       std::size_t column_bytes, std::size_t steps,
                                                       bool accumulate, char* sums, std::size_t sums_stride) {
  static_assert(Rows <= 2 && Columns <= 2);
  char* const low = sums + tile_side * sums_stride;
  if (accumulate) {
    load_tile<0>(sums, sums_stride);
    if constexpr (Columns == 2) load_tile<1>(sums + tile_bytes, sums_stride);
    if constexpr (Rows == 2) load_tile<2>(low, sums_stride);
    if constexpr (Rows == 2 && Columns == 2) load_tile<3>(low + tile_bytes, sums_stride);
  } else {
    zero_tile<0>();
    if constexpr (Columns == 2) zero_tile<1>();
    if constexpr (Rows == 2) zero_tile<2>();
    if constexpr (Rows == 2 && Columns == 2) zero_tile<3>();
  }
#pragma GCC unroll 1
  for (std::size_t step = 0; step < steps; ++step) {
    load_tile<6>(panel, tile_bytes);
    load_tile<4>(x, x_stride);
    Products::template add<0, 4, 6>();
    if constexpr (Columns == 2) {
      load_tile<7>(panel + column_bytes, tile_bytes);
      Products::template add<1, 4, 7>();
    }
    if constexpr (Rows == 2) {
      load_tile<5>(x + tile_side * x_stride, x_stride);
      Products::template add<2, 5, 6>();
    }
    if constexpr (Rows == 2 && Columns == 2) Products::template add<3, 5, 7>();
    panel += tile_side * tile_bytes;
    x += tile_bytes;
  }
  store_tile<0>(sums, sums_stride);
  if constexpr (Columns == 2) store_tile<1>(sums + tile_bytes, sums_stride);
  if constexpr (Rows == 2) store_tile<2>(low, sums_stride);
  if constexpr (Rows == 2 && Columns == 2) store_tile<3>(low + tile_bytes, sums_stride);
}

template <int Columns, class Products>
void multiply_tile_columns(const char* x, std::size_t x_stride, std::size_t rows, const char* panel,
                           std::size_t column_bytes, std::size_t steps, bool accumulate, char* sums,
                           std::size_t sums_stride) {
  for (std::size_t r = 0; r < rows; r += 2 * tile_side) {
    const char* const from = x + r * x_stride;
    char* const to = sums + r * sums_stride;
    if (r + tile_side < rows) {
      multiply_tile_block<2, Columns, Products>(from, x_stride, panel, column_bytes, steps, accumulate, to,
                                                sums_stride);
    } else {
      multiply_tile_block<1, Columns, Products>(from, x_stride, panel, column_bytes, steps, accumulate, to,
                                                sums_stride);
    }
  }
}

// sums [rows, columns] (+)= x . panel, over `steps` tiles of k. x_stride and sums_stride are elements.
// The two times 16 columns of a pass, up to 32 KB, stay in the first cache while all rows meet them.
template <class Products, class Element, class Sum>
void multiply_tiles(const Element* x, std::size_t x_stride, std::size_t rows, TilePanel panel,
                    std::size_t columns, std::size_t steps, bool accumulate, Sum* sums,
                    std::size_t sums_stride) {
  static_assert(sizeof(Sum) == 4);
  const auto* from = reinterpret_cast<const char*>(x);
  const auto* words = static_cast<const char*>(panel.words);
  auto* to = reinterpret_cast<char*>(sums);
  const std::size_t from_stride = x_stride * sizeof(Element);
  const std::size_t to_stride = sums_stride * sizeof(Sum);
  for (std::size_t c = 0; c < columns; c += 2 * tile_side) {
    if (c + tile_side < columns) {
      multiply_tile_columns<2, Products>(from, from_stride, rows, words, panel.column_bytes, steps,
                                         accumulate, to, to_stride);
    } else {
      multiply_tile_columns<1, Products>(from, from_stride, rows, words, panel.column_bytes, steps,
                                         accumulate, to, to_stride);
    }
    words += 2 * panel.column_bytes;
    to += 2 * tile_bytes;
  }
}

}  // namespace internvl::INTERNVL_ISA
