#include "image/pixel_values.h"

#include <cmath>
#include <string>

#include "runtime/error.h"

namespace internvl {

Normalisation make_normalisation(const std::array<double, rgb_channels>& mean,
                                 const std::array<double, rgb_channels>& std) {
  Normalisation result{};
  result.scale_high = static_cast<float>(1.0 / 255.0);
  result.scale_low = static_cast<float>(1.0 / 255.0 - result.scale_high);
  result.products_are_exact = true;
  for (std::size_t c = 0; c < rgb_channels; ++c) {
    const auto channel_mean = static_cast<float>(mean[c]);
    const auto channel_std = static_cast<float>(std[c]);
    if (!std::isfinite(channel_mean) || !std::isfinite(channel_std) || channel_std == 0.0F) {
      throw ImageError("The normalisation has mean " + std::to_string(mean[c]) + " and standard deviation " +
                       std::to_string(std[c]) + "; expected finite numbers, the deviation not zero.");
    }
    const double inverse = 1.0 / static_cast<double>(channel_std);
    result.mean[c] = channel_mean;
    result.inverse_std_high[c] = static_cast<float>(inverse);
    result.inverse_std_low[c] = static_cast<float>(inverse - result.inverse_std_high[c]);
    for (int value = 0; value < 256; ++value) {
      const float scaled = static_cast<float>(value) / 255.0F;
      const float centred = scaled - channel_mean;
      const float exact = centred / channel_std;
      result.table[c][value] = exact;
      const float scaled_product = std::fma(static_cast<float>(value), result.scale_high,
                                            static_cast<float>(value) * result.scale_low);
      const float product =
          std::fma(centred, result.inverse_std_high[c], centred * result.inverse_std_low[c]);
      result.products_are_exact = result.products_are_exact && scaled_product == scaled && product == exact;
    }
  }
  return result;
}

void write_pixel_values(const std::uint8_t* tiles, std::size_t count, std::size_t side,
                        const Normalisation& normalisation, float* out, ThreadTeam& team) {
  const PixelValueKernels& kernels = pixel_value_kernels(features());
  const std::size_t plane = side * side;
  team.for_each_range(count * side, side, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      float* red = out + row / side * rgb_channels * plane + row % side * side;
      kernels.normalise(tiles + row * side * rgb_channels, side, normalisation, red, red + plane,
                        red + 2 * plane);
    }
  });
}

}  // namespace internvl
