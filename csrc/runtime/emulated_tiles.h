// The tile unit in memory, for tests on processors without one. It does what the processor's manual says of
// the eight instructions, and throws std::logic_error where that would raise an exception.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/tile_shapes.h"

namespace internvl {

class EmulatedTiles {
 public:
  void configure(const TileShapes& shapes);  // LDTILECFG: all tiles become zero
  void release() { configured_ = false; }    // TILERELEASE
  const TileShapes& shapes() const;          // STTILECFG

  void zero(int tile);
  void load(int tile, const void* p, std::size_t stride);
  void store(int tile, void* p, std::size_t stride);
  // c [m, n] += a [m, k] . b [k, n], b in words of two or four elements of k.
  void add_bfloat16_products(int c, int a, int b);  // TDPBF16PS
  void add_int8_products(int c, int a, int b);      // TDPBSSD

  // Throws unless the tile has so many rows of so many bytes.
  void expect(int tile, int rows, int row_bytes) const;

 private:
  void expect_configured(int tile) const;
  void expect_product(int c, int a, int b) const;

  bool configured_ = false;
  TileShapes shapes_{};
  alignas(64) std::uint8_t data_[tiles][most_tile_rows][most_tile_row_bytes] = {};
};

// This thread's.
EmulatedTiles& emulated_tiles();

}  // namespace internvl
