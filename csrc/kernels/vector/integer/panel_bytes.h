// Panels of int8 weights as bytes, four of a column beside each other. Included at the end of the headers of
// the sets that multiply bytes as they are.
#pragma once

namespace internvl::INTERNVL_ISA {

constexpr std::size_t panel_element_bytes = 1;

using PanelWeights = Int8Weights;
inline PanelInputs panel_inputs(PanelInputs x, std::size_t, std::size_t, std::int8_t*, std::size_t) {
  return x;
}
inline PanelWeights load_panel(const std::int8_t* p) { return int8_weights(load_int8(p)); }
inline void store_panel(const std::int8_t* rows, std::size_t stride, std::int8_t* out,
                        std::size_t out_stride) {
  store_words_transposed(rows, stride, out, out_stride);
}

}  // namespace internvl::INTERNVL_ISA

#include "kernels/vector/integer/panel_rows.h"
