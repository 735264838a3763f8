#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "kernels/pixel_values/pixel_values.h"
#include "kernels/resample/resample.h"

namespace internvl::INTERNVL_ISA {

struct Bytes {
  uint8x16_t halves[2];
};

inline Bytes load_bytes(const std::uint8_t* from) { return {{vld1q_u8(from), vld1q_u8(from + 16)}}; }

inline void store_bytes(const Bytes& bytes, std::uint8_t* to) {
  vst1q_u8(to, bytes.halves[0]);
  vst1q_u8(to + 16, bytes.halves[1]);
}

// Multiplies whole weights: NEON multiplies 32-bit lanes as fast as it multiplies 16-bit ones to 32 bits.
class WeightedSum {
 public:
  WeightedSum() {
    for (int32x4_t& sum : sums_) sum = vdupq_n_s32(1 << (weight_bits - 1));
  }

  void add(const Bytes& first, const Bytes& second, const TapPair& pair) {
    add(first, pair.high[0] * 65536 + pair.low[0]);
    add(second, pair.high[1] * 65536 + pair.low[1]);
  }

  Bytes result() const { return {{result(sums_), result(sums_ + 4)}}; }

 private:
  void add(const Bytes& bytes, std::int32_t weight) {
    for (std::size_t half = 0; half < 2; ++half) {
      const uint16x8_t words[] = {vmovl_u8(vget_low_u8(bytes.halves[half])),
                                  vmovl_high_u8(bytes.halves[half])};
      for (std::size_t i = 0; i < 2; ++i) {
        int32x4_t* sums = sums_ + 4 * half + 2 * i;
        const int32x4_t low = vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(words[i])));
        const int32x4_t high = vreinterpretq_s32_u32(vmovl_high_u16(words[i]));
        sums[0] = vmlaq_n_s32(sums[0], low, weight);
        sums[1] = vmlaq_n_s32(sums[1], high, weight);
      }
    }
  }

  // Narrowing saturates: below 0 to 0, above 255 to 255.
  static uint8x16_t result(const int32x4_t* sums) {
    const auto narrow = [](int32x4_t low, int32x4_t high) {
      return vcombine_u16(vqmovun_s32(vshrq_n_s32(low, weight_bits)),
                          vqmovun_s32(vshrq_n_s32(high, weight_bits)));
    };
    return vcombine_u8(vqmovn_u16(narrow(sums[0], sums[1])), vqmovn_u16(narrow(sums[2], sums[3])));
  }

  int32x4_t sums_[8];
};

// A round rotates the eight bits of (row, column) by one; four rounds exchange row and column.
inline void transpose(uint8x16_t (&vectors)[16]) {
  for (int round = 0; round < 4; ++round) {
    uint8x16_t next[16];
    for (std::size_t i = 0; i < 8; ++i) {
      next[2 * i] = vzip1q_u8(vectors[i], vectors[i + 8]);
      next[2 * i + 1] = vzip2q_u8(vectors[i], vectors[i + 8]);
    }
    for (std::size_t i = 0; i < 16; ++i) vectors[i] = next[i];
  }
}

inline void transpose_in(const std::uint8_t* const* rows, std::size_t offset, std::uint8_t* columns) {
  for (std::size_t half = 0; half < row_block; half += 16) {
    uint8x16_t vectors[16];
    for (std::size_t i = 0; i < 16; ++i) vectors[i] = vld1q_u8(rows[half + i] + offset);
    transpose(vectors);
    for (std::size_t i = 0; i < 16; ++i) vst1q_u8(columns + i * row_block + half, vectors[i]);
  }
}

inline void transpose_out(const std::uint8_t* columns, std::uint8_t* out, std::size_t stride) {
  for (std::size_t half = 0; half < row_block; half += 16) {
    uint8x16_t vectors[16];
    for (std::size_t i = 0; i < 16; ++i) vectors[i] = vld1q_u8(columns + i * row_block + half);
    transpose(vectors);
    for (std::size_t i = 0; i < 16; ++i) vst1q_u8(out + (half + i) * stride, vectors[i]);
  }
}

inline std::size_t normalise_pixels(const std::uint8_t* rgb, std::size_t pixels,
                                    const Normalisation& normalisation, float* red, float* green,
                                    float* blue) {
  if (!normalisation.products_are_exact) return 0;
  float* const planes[] = {red, green, blue};
  const float32x4_t scale_high = vdupq_n_f32(normalisation.scale_high);
  const float32x4_t scale_low = vdupq_n_f32(normalisation.scale_low);
  std::size_t done = 0;
  for (; done + 16 <= pixels; done += 16) {
    const uint8x16x3_t sixteen = vld3q_u8(rgb + done * rgb_channels);
    for (std::size_t c = 0; c < rgb_channels; ++c) {
      const float32x4_t mean = vdupq_n_f32(normalisation.mean[c]);
      const float32x4_t inverse_high = vdupq_n_f32(normalisation.inverse_std_high[c]);
      const float32x4_t inverse_low = vdupq_n_f32(normalisation.inverse_std_low[c]);
      const uint16x8_t words[] = {vmovl_u8(vget_low_u8(sixteen.val[c])), vmovl_high_u8(sixteen.val[c])};
      for (std::size_t i = 0; i < 4; ++i) {
        const uint16x8_t half = words[i / 2];
        const float32x4_t value =
            vcvtq_f32_u32(i % 2 == 0 ? vmovl_u16(vget_low_u16(half)) : vmovl_high_u16(half));
        const float32x4_t scaled = vfmaq_f32(vmulq_f32(value, scale_low), value, scale_high);
        const float32x4_t centred = vsubq_f32(scaled, mean);
        vst1q_f32(planes[c] + done + 4 * i,
                  vfmaq_f32(vmulq_f32(centred, inverse_low), centred, inverse_high));
      }
    }
  }
  return done;
}

}  // namespace internvl::INTERNVL_ISA
