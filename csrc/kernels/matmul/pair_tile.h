// Rows of bf16 with a panel of bf16 words (bfloat16_vector.h), their sums in registers: what the GEMM of bf16
// and attention in bf16 have in common. Included by kernel sources only.
//
// A lane takes a column's products one after the other, whatever the number of rows and columns at once, and
// a sum that is continued with a further panel goes on where it stood: a sum depends on its row and its
// column alone.
#pragma once

#include "kernels/vector/bfloat16/vector.h"
#include "kernels/vector/with_count.h"

namespace internvl::INTERNVL_ISA {

// Words [words, columns] of a panel: words of all columns beside each other.
struct PairPanel {
  const BFloat16* words;
  std::size_t columns;  // a multiple of pair_lanes
};

// sums[Rows, Vectors * pair_lanes] (+)= x[Rows, 2 * words] . panel, for the panel's first columns.
template <int Rows, int Vectors>
void multiply_pairs(const BFloat16* x, std::size_t x_stride, PairPanel panel, std::size_t words,
                    bool accumulate, float* sums, std::size_t sums_stride) {
  PairSums sum[Rows][Vectors];
  const auto place = [&](int r, int v) {
    return sums + static_cast<std::size_t>(r) * sums_stride + static_cast<std::size_t>(v) * pair_lanes;
  };
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < Vectors; ++v) sum[r][v] = accumulate ? load_pair_sums(place(r, v)) : zero_pair_sums();
  }
  for (std::size_t i = 0; i < words; ++i) {
    PairWords columns[Vectors];
    for (int v = 0; v < Vectors; ++v) {
      columns[v] =
          load_words(panel.words + 2 * (i * panel.columns + static_cast<std::size_t>(v) * pair_lanes));
    }
    for (int r = 0; r < Rows; ++r) {
      const PairWords row = broadcast_word(x + static_cast<std::size_t>(r) * x_stride + 2 * i);
      for (int v = 0; v < Vectors; ++v) sum[r][v] = dot(sum[r][v], columns[v], row);
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < Vectors; ++v) store_pair_sums(place(r, v), sum[r][v]);
  }
}

// The same for any number of rows, and of vectors of columns.
template <int Rows, int Vectors>
void multiply_pairs(const BFloat16* x, std::size_t x_stride, std::size_t rows, PairPanel panel,
                    std::size_t vectors, std::size_t words, bool accumulate, float* sums,
                    std::size_t sums_stride) {
  for (std::size_t r = 0; r < rows; r += Rows) {
    with_count<Rows>(rows - r, [&](auto count) {
      constexpr int some = decltype(count)::value;
      const BFloat16* const from = x + r * x_stride;
      float* const to = sums + r * sums_stride;
      std::size_t v = 0;
      for (; v + Vectors <= vectors; v += Vectors) {
        multiply_pairs<some, Vectors>(from, x_stride, {panel.words + 2 * v * pair_lanes, panel.columns},
                                      words, accumulate, to + v * pair_lanes, sums_stride);
      }
      for (; v < vectors; ++v) {
        multiply_pairs<some, 1>(from, x_stride, {panel.words + 2 * v * pair_lanes, panel.columns}, words,
                                accumulate, to + v * pair_lanes, sums_stride);
      }
    });
  }
}

}  // namespace internvl::INTERNVL_ISA
