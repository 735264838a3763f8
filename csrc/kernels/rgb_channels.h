#pragma once

#include <cstddef>

namespace internvl {

inline constexpr std::size_t rgb_channels = 3;

}  // namespace internvl
