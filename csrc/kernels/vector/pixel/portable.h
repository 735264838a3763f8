// Plain loops of fixed length, which compilers turn into the vectors of the baseline.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/pixel_values/pixel_values.h"
#include "kernels/resample/resample.h"

namespace internvl::INTERNVL_ISA {

struct Bytes {
  std::uint8_t values[row_block];
};

inline Bytes load_bytes(const std::uint8_t* from) {
  Bytes bytes;
  __builtin_memcpy(bytes.values, from, row_block);
  return bytes;
}

inline void store_bytes(const Bytes& bytes, std::uint8_t* to) {
  __builtin_memcpy(to, bytes.values, row_block);
}

class WeightedSum {
 public:
  WeightedSum() {
    for (std::int32_t& sum : sums_) sum = 1 << (weight_bits - 1);
  }

  void add(const Bytes& first, const Bytes& second, const TapPair& pair) {
    const std::int32_t first_weight = pair.high[0] * 65536 + pair.low[0];
    const std::int32_t second_weight = pair.high[1] * 65536 + pair.low[1];
    for (std::size_t i = 0; i < row_block; ++i) {
      sums_[i] += first_weight * first.values[i] + second_weight * second.values[i];
    }
  }

  Bytes result() const {
    Bytes bytes;
    for (std::size_t i = 0; i < row_block; ++i) {
      const std::int32_t value = sums_[i] >> weight_bits;
      bytes.values[i] = static_cast<std::uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
    }
    return bytes;
  }

 private:
  std::int32_t sums_[row_block];
};

inline void transpose_in(const std::uint8_t* const* rows, std::size_t offset, std::uint8_t* columns) {
  for (std::size_t row = 0; row < row_block; ++row) {
    for (std::size_t i = 0; i < 16; ++i) columns[i * row_block + row] = rows[row][offset + i];
  }
}

inline void transpose_out(const std::uint8_t* columns, std::uint8_t* out, std::size_t stride) {
  for (std::size_t row = 0; row < row_block; ++row) {
    for (std::size_t i = 0; i < 16; ++i) out[row * stride + i] = columns[i * row_block + row];
  }
}

// The table serves.
inline std::size_t normalise_pixels(const std::uint8_t*, std::size_t, const Normalisation&, float*, float*,
                                    float*) {
  return 0;
}

}  // namespace internvl::INTERNVL_ISA
