// Tiles as the values that a vision tower computes with.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/pixel_values/pixel_values.h"
#include "runtime/thread_team.h"

namespace internvl {

// Throws ImageError if a number is not finite or a deviation is zero.
Normalisation make_normalisation(const std::array<double, rgb_channels>& mean,
                                 const std::array<double, rgb_channels>& std);

// Tiles [count, side, side, 3] to out [count, 3, side, side].
void write_pixel_values(const std::uint8_t* tiles, std::size_t count, std::size_t side,
                        const Normalisation& normalisation, float* out, ThreadTeam& team);

}  // namespace internvl
