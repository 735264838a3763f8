#include "ops/cpu/patchify.h"

#include <cstring>
#include <variant>
#include <vector>

namespace internvl {
namespace {

// One row of pixels of one channel [grid * side], to where it stands in each patch.
void spread(const float* values, std::size_t grid, std::size_t side, float* patches) {
  for (std::size_t column = 0; column < grid; ++column) {
    std::memcpy(patches + column * rgb_channels * side * side, values + column * side, side * sizeof(float));
  }
}

}  // namespace

void patchify(const TilePixels& pixels, std::size_t grid_row, const PatchEmbedding& embedding,
              Features features, float* patches) {
  const std::size_t size = embedding.image_size;
  const std::size_t side = embedding.patch_size;
  const std::size_t grid = size / side;
  const std::size_t first = grid_row * side;  // of the rows of all tiles
  if (const auto* values = std::get_if<std::span<const float>>(&pixels)) {
    const float* tile = values->data() + first / size * rgb_channels * size * size;
    for (std::size_t channel = 0; channel < rgb_channels; ++channel) {
      for (std::size_t y = 0; y < side; ++y) {
        spread(tile + (channel * size + first % size + y) * size, grid, side,
               patches + (channel * side + y) * side);
      }
    }
    return;
  }
  const PixelValueKernels& kernels = pixel_value_kernels(features);
  const std::uint8_t* rgb =
      std::get<std::span<const std::uint8_t>>(pixels).data() + first * size * rgb_channels;
  std::vector<float> row(rgb_channels * size);
  for (std::size_t y = 0; y < side; ++y, rgb += size * rgb_channels) {
    kernels.normalise(rgb, size, embedding.normalisation, row.data(), row.data() + size,
                      row.data() + 2 * size);
    for (std::size_t channel = 0; channel < rgb_channels; ++channel) {
      spread(row.data() + channel * size, grid, side, patches + (channel * side + y) * side);
    }
  }
}

}  // namespace internvl
