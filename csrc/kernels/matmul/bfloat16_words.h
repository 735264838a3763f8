// Words of rows of bf16 at the edge of a matrix. Included by kernel sources only.
#pragma once

#include "kernels/vector/bfloat16/vector.h"

namespace internvl::INTERNVL_ISA {

// store_words() of the first `rows` rows and `elements` elements of each; the others are 0.
inline void store_edge_words(const BFloat16* from, std::size_t stride, std::size_t rows, std::size_t elements,
                             BFloat16* out, std::size_t out_stride) {
  BFloat16 edge[pair_lanes][word_row_elements] = {};
  for (std::size_t row = 0; row < pair_lanes && row < rows; ++row) {
    for (std::size_t i = 0; i < word_row_elements && i < elements; ++i) edge[row][i] = from[row * stride + i];
  }
  store_words(edge[0], word_row_elements, out, out_stride);
}

}  // namespace internvl::INTERNVL_ISA
