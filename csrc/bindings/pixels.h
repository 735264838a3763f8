// Pictures of Python's as the core reads them.
#pragma once

#include <pybind11/numpy.h>

#include <cstdint>

#include "image/tile.h"
#include "runtime/error.h"

namespace internvl::bindings {

using Pixels = pybind11::array_t<std::uint8_t>;

// Throws ImageError unless it is RGB, uint8 [height, width, 3], whose rows are contiguous.
inline ImageView view_of(const Pixels& rgb) {
  const bool pixels_side_by_side = rgb.ndim() == 3 && rgb.shape(2) == 3 && rgb.strides(2) == 1 &&
                                   (rgb.strides(1) == 3 || rgb.shape(1) == 1);
  if (!pixels_side_by_side) {
    throw ImageError(
        "The picture is not an array [height, width, 3] of 8-bit RGB whose rows are contiguous.");
  }
  return {rgb.data(), rgb.shape(0), rgb.shape(1), rgb.strides(0)};
}

}  // namespace internvl::bindings
