// From 8-bit RGB to the values that a vision tower takes: the kernels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/dispatch.h"
#include "kernels/rgb_channels.h"

namespace internvl {

// ((value / 255) - mean) / std in float32, step by step.
struct Normalisation {
  float table[rgb_channels][256];
  // The same function as products with reciprocals, each in two parts; valid if `products_are_exact`.
  bool products_are_exact;
  float scale_high, scale_low;  // 1 / 255
  float mean[rgb_channels];
  float inverse_std_high[rgb_channels], inverse_std_low[rgb_channels];
};

struct PixelValueKernels {
  // Splits pixels into three float rows.
  void (*normalise)(const std::uint8_t* rgb, std::size_t pixels, const Normalisation& normalisation,
                    float* red, float* green, float* blue);
};

const PixelValueKernels& pixel_value_kernels(Features features);

}  // namespace internvl
