#include "image/grid.h"

#include <cmath>
#include <limits>
#include <string>

#include "runtime/error.h"

namespace internvl {
namespace {

void check_range(const char* name, std::int64_t value, std::int64_t least, std::int64_t most) {
  if (value >= least && value <= most) return;
  throw ImageError(std::string(name) + " is " + std::to_string(value) + "; expected " +
                   std::to_string(least) + " to " + std::to_string(most) + ".");
}

}  // namespace

Grid choose_grid(std::int64_t width, std::int64_t height, int min_tiles, int max_tiles, int tile_size) {
  check_range("The picture's width", width, 1, max_image_side);
  check_range("The picture's height", height, 1, max_image_side);
  check_range("tile_size", tile_size, 1, max_tile_size);
  check_range("max_tiles", max_tiles, 1, max_tiles_limit);
  check_range("min_tiles", min_tiles, 1, max_tiles);
  const double aspect = static_cast<double>(width) / static_cast<double>(height);
  const auto pixels = static_cast<double>(width * height);
  Grid best;
  double best_distance = std::numeric_limits<double>::infinity();
  for (int tiles = min_tiles; tiles <= max_tiles; ++tiles) {
    for (int columns = 1; columns <= tiles; ++columns) {
      if (tiles % columns != 0) continue;
      const Grid grid{columns, tiles / columns};
      const double distance = std::abs(aspect - static_cast<double>(grid.columns) / grid.rows);
      const bool nearer = distance < best_distance;
      const bool as_near_and_filled =
          distance == best_distance && pixels > 0.5 * tile_size * tile_size * grid.columns * grid.rows;
      if (!nearer && !as_near_and_filled) continue;
      best = grid;
      best_distance = distance;
    }
  }
  return best;
}

}  // namespace internvl
