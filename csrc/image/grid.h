// Which grid of tiles a picture is cut into.
#pragma once

#include <cstdint>

namespace internvl {

struct Grid {
  int columns = 1;
  int rows = 1;

  int tiles() const { return columns * rows; }
  bool operator==(const Grid&) const = default;
};

// Bounds that keep memory and arithmetic in range whatever the caller passes.
inline constexpr std::int64_t max_image_side = 1'048'576;
inline constexpr int max_tiles_limit = 1024;
inline constexpr int max_tile_size = 4096;

// The grid of min_tiles to max_tiles tiles whose aspect ratio is nearest to width : height, by the rule of
// the InternVL authors' dynamic_preprocess: distances are compared exactly, as doubles; of grids at the same
// distance a larger one wins if the picture has more than half as many pixels as it. Throws ImageError if a
// number is out of range.
Grid choose_grid(std::int64_t width, std::int64_t height, int min_tiles, int max_tiles, int tile_size);

}  // namespace internvl
