#pragma once

#include <cstddef>

#include "ops/ops.h"
#include "runtime/features.h"

namespace internvl {

// The patches [grid, 3 * side * side] of one row of the grid, each in the order of a convolution's weights:
// (channel, y, x). `grid_row` counts the rows of all tiles.
void patchify(const TilePixels& pixels, std::size_t grid_row, const PatchEmbedding& embedding,
              Features features, float* patches);

}  // namespace internvl
