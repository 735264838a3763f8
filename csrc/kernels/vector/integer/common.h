// What every set does alike. Included at the end of the headers of integer/.
#pragma once

namespace internvl::INTERNVL_ISA {

inline Int8Vector load_int8(const std::int8_t* p, std::size_t remaining) {
  std::int8_t first[4 * sum_lanes] = {};
  for (std::size_t i = 0; i < 4 * sum_lanes && i < remaining; ++i) first[i] = p[i];
  return load_int8(first);
}

}  // namespace internvl::INTERNVL_ISA
