#include "kernels/pixel_values/pixel_values.h"
#include "kernels/vector/pixel/vector.h"

namespace internvl::INTERNVL_ISA {
namespace {

void normalise(const std::uint8_t* rgb, std::size_t pixels, const Normalisation& normalisation, float* red,
               float* green, float* blue) {
  for (std::size_t i = normalise_pixels(rgb, pixels, normalisation, red, green, blue); i < pixels; ++i) {
    red[i] = normalisation.table[0][rgb[rgb_channels * i]];
    green[i] = normalisation.table[1][rgb[rgb_channels * i + 1]];
    blue[i] = normalisation.table[2][rgb[rgb_channels * i + 2]];
  }
}

}  // namespace

const PixelValueKernels& pixel_value_kernels() {
  static constexpr PixelValueKernels kernels{normalise};
  return kernels;
}

}  // namespace internvl::INTERNVL_ISA
