#include "runtime/readable_size.h"

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>

namespace internvl {

std::string readable_size(double bytes) {
  constexpr std::array<const char*, 4> units = {"B", "KiB", "MiB", "GiB"};
  std::size_t unit = 0;
  while (unit + 1 < units.size() && std::abs(bytes) >= 1024) {
    bytes /= 1024;
    ++unit;
  }
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.*f %s", unit == 0 ? 0 : 2, bytes, units[unit]);
  return text.data();
}

}  // namespace internvl
