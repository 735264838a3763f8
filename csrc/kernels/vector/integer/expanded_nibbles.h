// Panels of int4 weights that are expanded first. Included at the end of the headers of the sets on which
// that costs little beside the products.
#pragma once

namespace internvl::INTERNVL_ISA {

constexpr std::size_t nibble_rows = 8;
inline void store_nibbles(const std::uint8_t* rows, std::size_t row_bytes, std::int8_t* out,
                          std::size_t out_stride) {
  std::int8_t expanded[nibble_rows][32];
  for (std::size_t i = 0; i < nibble_rows; ++i) expand_int4(rows + i * row_bytes, expanded[i]);
  store_panel(expanded[0], 32, out, out_stride);
}

}  // namespace internvl::INTERNVL_ISA
