#include "kernels/resample/resample.h"

#include "kernels/vector/pixel/vector.h"

namespace internvl::INTERNVL_ISA {
namespace {

// Bytes [begin, end) of row_block rows, transposed: [end - begin, row_block].
void turn_rows(const std::uint8_t* const* rows, std::size_t begin, std::size_t end, std::uint8_t* columns) {
  std::size_t byte = begin;
  for (; byte + 16 <= end; byte += 16) transpose_in(rows, byte, columns + (byte - begin) * row_block);
  if (byte == end) return;
  // Nothing may be read past the end of a row.
  std::uint8_t rest[row_block][16] = {};
  const std::uint8_t* rest_rows[row_block];
  std::uint8_t transposed[16 * row_block];
  for (std::size_t row = 0; row < row_block; ++row) {
    __builtin_memcpy(rest[row], rows[row] + byte, end - byte);
    rest_rows[row] = rest[row];
  }
  transpose_in(rest_rows, 0, transposed);
  __builtin_memcpy(columns + (byte - begin) * row_block, transposed, (end - byte) * row_block);
}

Bytes weighted_sum(const std::uint8_t* rows, std::size_t stride, const TapPair* weights, std::size_t pairs) {
  WeightedSum sum;
  for (std::size_t pair = 0; pair < pairs; ++pair) {
    sum.add(load_bytes(rows), load_bytes(rows + stride), weights[pair]);
    rows += 2 * stride;
  }
  return sum.result();
}

void horizontal(const std::uint8_t* const* rows, const FilterView& filter, std::uint8_t* columns,
                std::uint8_t* out, std::size_t stride) {
  constexpr std::size_t pixel_bytes = rgb_channels * row_block;  // of one pixel of all rows
  alignas(64) std::uint8_t transposed[pixel_block * pixel_bytes] = {};
  for (std::size_t chunk = 0; chunk < filter.outputs; chunk += filter.chunk) {
    const std::size_t chunk_end =
        chunk + filter.chunk < filter.outputs ? chunk + filter.chunk : filter.outputs;
    const Taps& last = filter.taps[chunk_end - 1];
    const std::size_t first_pixel = filter.taps[chunk].first;
    std::size_t end_pixel = last.first + 2 * static_cast<std::size_t>(last.pairs);
    if (end_pixel > filter.source) end_pixel = filter.source;
    turn_rows(rows, first_pixel * rgb_channels, end_pixel * rgb_channels, columns);
    for (std::size_t block = chunk; block < chunk_end; block += pixel_block) {
      const std::size_t block_end = block + pixel_block < chunk_end ? block + pixel_block : chunk_end;
      for (std::size_t x = block; x < block_end; ++x) {
        const Taps& taps = filter.taps[x];
        const std::uint8_t* from = columns + (taps.first - first_pixel) * pixel_bytes;
        std::uint8_t* to = transposed + (x - block) * pixel_bytes;
        for (std::size_t c = 0; c < rgb_channels; ++c) {
          store_bytes(
              weighted_sum(from + c * row_block, pixel_bytes, filter.weights + taps.weights, taps.pairs),
              to + c * row_block);
        }
      }
      for (std::size_t c = 0; c < rgb_channels; ++c) {
        transpose_out(transposed + c * 16 * row_block, out + block * rgb_channels + c * 16, stride);
      }
    }
  }
}

void vertical(const std::uint8_t* rows, std::size_t stride, const TapPair* weights, std::size_t pairs,
              std::size_t bytes, std::uint8_t* out) {
  for (std::size_t byte = 0; byte < bytes; byte += row_block) {
    store_bytes(weighted_sum(rows + byte, stride, weights, pairs), out + byte);
  }
}

}  // namespace

const ResampleKernels& resample_kernels() {
  static constexpr ResampleKernels kernels{horizontal, vertical};
  return kernels;
}

}  // namespace internvl::INTERNVL_ISA
