// Shapes of the tiles of the tile unit (runtime/tile_unit.h).
#pragma once

#include <cstdint>

namespace internvl {

inline constexpr int tiles = 8;
inline constexpr int most_tile_rows = 16;
inline constexpr int most_tile_row_bytes = 64;

struct TileShape {
  int rows;
  int row_bytes;
};

inline constexpr TileShape whole_tile{most_tile_rows, most_tile_row_bytes};

// What LDTILECFG reads: the rows and the bytes of a row of every tile.
struct alignas(64) TileShapes {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};

  constexpr void set(int tile, TileShape shape) {
    rows[tile] = static_cast<std::uint8_t>(shape.rows);
    row_bytes[tile] = static_cast<std::uint16_t>(shape.row_bytes);
  }
};
static_assert(sizeof(TileShapes) == 64);

// All tiles as large as they can be: what kernels find, and leave, in a TileRegion.
inline constexpr TileShapes whole_tiles = [] {
  TileShapes shapes;
  for (int tile = 0; tile < tiles; ++tile) shapes.set(tile, whole_tile);
  return shapes;
}();

}  // namespace internvl
