// Resampling of 8-bit RGB rows with integer weights: the kernels.
//
// A resampled value is clamp((sum(weight * pixel) + 2^21) >> 22, 0, 255) with weights of 22 fractional bits,
// which is what Pillow computes. The sum is integer arithmetic modulo 2^32, so any order and any split of the
// weights gives the same bits.
//
// Both passes are one operation, a weighted sum of rows of bytes: the horizontal pass transposes a block of
// rows first, so that the rows' values at one column lie side by side.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/dispatch.h"
#include "kernels/rgb_channels.h"

namespace internvl {

inline constexpr int weight_bits = 22;
// Rows that a horizontal pass works on at a time, and the granule of a row's bytes.
inline constexpr std::size_t row_block = 32;
// Pixels that a horizontal pass writes at a time: rows are written in runs of this many.
inline constexpr std::size_t pixel_block = 16;

// The weights of two neighbouring taps, weight = high * 2^16 + low. |high[0]| + |high[1]| <= 128, so that a
// pair of 8-bit products fits into 16 bits.
struct TapPair {
  std::int16_t low[2];
  std::int8_t high[4];  // the two, twice: a 32-bit broadcast fills a register with them
};

// Which source positions an output position is made of: first, first + 1, ..., 2 * pairs of them. The last of
// them may lie one past the end of the source, with weight 0.
struct Taps {
  std::uint32_t first;
  std::uint32_t pairs;
  std::size_t weights;  // where its pairs start in the filter's list
};

struct FilterView {
  const Taps* taps;  // [outputs]
  const TapPair* weights;
  std::size_t outputs;
  std::size_t source;  // positions of the source
  std::size_t chunk;   // outputs that a horizontal pass makes from one stretch of the source
};

struct ResampleKernels {
  // Resamples row_block rows of RGB. `columns` is scratch for one stretch of the source, transposed:
  // [(most source pixels of a chunk + 1) * 3, row_block]. `out` is the first of row_block rows, `stride`
  // bytes apart, each with room for the outputs rounded up to pixel_block.
  void (*horizontal)(const std::uint8_t* const* rows, const FilterView& filter, std::uint8_t* columns,
                     std::uint8_t* out, std::size_t stride);
  // One output row from rows `stride` bytes apart; `bytes` is a multiple of row_block.
  void (*vertical)(const std::uint8_t* rows, std::size_t stride, const TapPair* weights, std::size_t pairs,
                   std::size_t bytes, std::uint8_t* out);
};

const ResampleKernels& resample_kernels(Features features);

}  // namespace internvl
