// From a picture to its tiles.
//
// Two passes, horizontal and then vertical, give the bits of Pillow 12.3's bicubic resize of 8-bit
// RGB. A thread resizes a band of rows at a time and keeps only the horizontally resized rows that the next
// output row needs; each output row goes straight to where it belongs. So beside input and output a thread
// needs (taps of the vertical pass + 32) rows of the resized picture, whatever the size of the picture. The
// one exception is Pillow 12.3's too: a picture more than a hundred times as tall as wide is shrunk
// vertically first, in a step of its own, which takes a picture of the new height and the old width.
// Pillow 11.3 to 12.2 give all other pictures the same bits; 13 gives many other ones.
#pragma once

#include <cstddef>
#include <cstdint>

#include "image/grid.h"
#include "kernels/resample/resample.h"
#include "runtime/thread_team.h"

namespace internvl {

// RGB, 8 bits, [height, width, 3]; rows may be any distance apart.
struct ImageView {
  const std::uint8_t* pixels;
  std::int64_t height;
  std::int64_t width;
  std::ptrdiff_t row_stride;  // bytes
};

struct TilingOptions {
  int tile_size;
  int min_tiles;
  int max_tiles;
  bool thumbnail;
  bool dynamic;  // false: the whole picture becomes one tile
};

// How a picture is cut that may have so many tiles, by a model's rules.
TilingOptions with_at_most(const TilingOptions& tiling, int max_tiles);

struct TilePlan {
  Grid grid;
  bool thumbnail;  // one more tile, the whole picture
  int tile_size;

  int tiles() const { return grid.tiles() + (thumbnail ? 1 : 0); }
};

// Throws ImageError if the picture's size or an option is out of range.
TilePlan plan_tiles(std::int64_t width, std::int64_t height, const TilingOptions& options);

// Tiles of a picture of that size, its thumbnail included. Throws ImageError if a number is out of range.
int count_tiles(std::int64_t width, std::int64_t height, const TilingOptions& tiling, int max_tiles);

// Tiles are in row-major order of the grid, the thumbnail last.
// out: [tiles, tile_size, tile_size, 3]
void write_tiles(const ImageView& image, const TilePlan& plan, std::uint8_t* out, ThreadTeam& team);

}  // namespace internvl
