#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/pixel_values/pixel_values.h"
#include "kernels/resample/resample.h"
#include "kernels/vector/x86_intrinsics.h"

namespace internvl::INTERNVL_ISA {

using Bytes = __m256i;

inline Bytes load_bytes(const std::uint8_t* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}

inline void store_bytes(Bytes bytes, std::uint8_t* to) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bytes);
}

// Unpacking and packing both work within halves of a register, so the order of the bytes comes out as it went
// in.
class WeightedSum {
 public:
  WeightedSum() {
    for (__m256i& sum : low_) sum = _mm256_set1_epi32(1 << (weight_bits - 1));
    for (__m256i& sum : high_) sum = _mm256_setzero_si256();
  }

  void add(Bytes first, Bytes second, const TapPair& pair) {
    std::int32_t bits = 0;
    __builtin_memcpy(&bits, pair.low, sizeof bits);
    const __m256i low_weights = _mm256_set1_epi32(bits);
    __builtin_memcpy(&bits, pair.high, sizeof bits);
    const __m256i high_weights = _mm256_set1_epi32(bits);
    const __m256i zero = _mm256_setzero_si256();
    const __m256i pairs[2] = {_mm256_unpacklo_epi8(first, second), _mm256_unpackhi_epi8(first, second)};
    for (std::size_t i = 0; i < 2; ++i) {
      // Only the low 16 bits of the high sums count, so they may wrap.
      high_[i] = _mm256_add_epi16(high_[i], _mm256_maddubs_epi16(pairs[i], high_weights));
      low_[2 * i] =
          _mm256_add_epi32(low_[2 * i], _mm256_madd_epi16(_mm256_unpacklo_epi8(pairs[i], zero), low_weights));
      low_[2 * i + 1] = _mm256_add_epi32(
          low_[2 * i + 1], _mm256_madd_epi16(_mm256_unpackhi_epi8(pairs[i], zero), low_weights));
    }
  }

  Bytes result() const {
    const __m256i zero = _mm256_setzero_si256();
    __m256i words[2];
    for (std::size_t i = 0; i < 2; ++i) {
      const __m256i first = _mm256_add_epi32(low_[2 * i], _mm256_unpacklo_epi16(zero, high_[i]));
      const __m256i second = _mm256_add_epi32(low_[2 * i + 1], _mm256_unpackhi_epi16(zero, high_[i]));
      words[i] =
          _mm256_packs_epi32(_mm256_srai_epi32(first, weight_bits), _mm256_srai_epi32(second, weight_bits));
    }
    return _mm256_packus_epi16(words[0], words[1]);
  }

 private:
  __m256i low_[4];
  __m256i high_[2];
};

// Transposes the 16 x 16 bytes in each half of the registers. A round rotates the eight bits of (row, column)
// by one; four rounds exchange row and column.
inline void transpose_halves(__m256i (&vectors)[16]) {
  for (int round = 0; round < 4; ++round) {
    __m256i next[16];
    for (std::size_t i = 0; i < 8; ++i) {
      next[2 * i] = _mm256_unpacklo_epi8(vectors[i], vectors[i + 8]);
      next[2 * i + 1] = _mm256_unpackhi_epi8(vectors[i], vectors[i + 8]);
    }
    for (std::size_t i = 0; i < 16; ++i) vectors[i] = next[i];
  }
}

inline __m128i load_half(const std::uint8_t* from) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
}

inline void transpose_in(const std::uint8_t* const* rows, std::size_t offset, std::uint8_t* columns) {
  __m256i vectors[16];
  for (std::size_t i = 0; i < 16; ++i) {
    vectors[i] = _mm256_set_m128i(load_half(rows[i + 16] + offset), load_half(rows[i] + offset));
  }
  transpose_halves(vectors);
  for (std::size_t i = 0; i < 16; ++i) store_bytes(vectors[i], columns + i * row_block);
}

inline void transpose_out(const std::uint8_t* columns, std::uint8_t* out, std::size_t stride) {
  __m256i vectors[16];
  for (std::size_t i = 0; i < 16; ++i) vectors[i] = load_bytes(columns + i * row_block);
  transpose_halves(vectors);
  for (std::size_t i = 0; i < 16; ++i) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i * stride), _mm256_castsi256_si128(vectors[i]));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + (i + 16) * stride),
                     _mm256_extracti128_si256(vectors[i], 1));
  }
}

// Eight pixels of one channel, spread to 32-bit lanes: four pixels, 12 bytes, lie in each half.
inline __m256 channel_of(__m256i pixels, int channel) {
  const __m256i lanes = _mm256_setr_epi8(0, -1, -1, -1, 3, -1, -1, -1, 6, -1, -1, -1, 9, -1, -1, -1,  //
                                         0, -1, -1, -1, 3, -1, -1, -1, 6, -1, -1, -1, 9, -1, -1, -1);
  const __m256i shift = _mm256_set1_epi32(channel);  // the -1 bytes keep their high bit or are added to 0
  return _mm256_cvtepi32_ps(_mm256_shuffle_epi8(pixels, _mm256_add_epi32(lanes, shift)));
}

inline std::size_t normalise_pixels(const std::uint8_t* rgb, std::size_t pixels,
                                    const Normalisation& normalisation, float* red, float* green,
                                    float* blue) {
  if (!normalisation.products_are_exact) return 0;
  float* const planes[] = {red, green, blue};
  const __m256 scale_high = _mm256_set1_ps(normalisation.scale_high);
  const __m256 scale_low = _mm256_set1_ps(normalisation.scale_low);
  __m256 mean[rgb_channels], inverse_high[rgb_channels], inverse_low[rgb_channels];
  for (std::size_t c = 0; c < rgb_channels; ++c) {
    mean[c] = _mm256_set1_ps(normalisation.mean[c]);
    inverse_high[c] = _mm256_set1_ps(normalisation.inverse_std_high[c]);
    inverse_low[c] = _mm256_set1_ps(normalisation.inverse_std_low[c]);
  }
  std::size_t done = 0;
  // Eight pixels are read as two halves of 16 bytes, the last 4 of which are of the pixels behind them.
  for (; (done + 8) * rgb_channels + 4 <= pixels * rgb_channels; done += 8) {
    const std::uint8_t* from = rgb + done * rgb_channels;
    const __m256i eight = _mm256_set_m128i(load_half(from + 12), load_half(from));
    for (std::size_t c = 0; c < rgb_channels; ++c) {
      const __m256 value = channel_of(eight, static_cast<int>(c));
      const __m256 scaled = _mm256_fmadd_ps(value, scale_high, _mm256_mul_ps(value, scale_low));
      const __m256 centred = _mm256_sub_ps(scaled, mean[c]);
      const __m256 result = _mm256_fmadd_ps(centred, inverse_high[c], _mm256_mul_ps(centred, inverse_low[c]));
      _mm256_storeu_ps(planes[c] + done, result);
    }
  }
  return done;
}

}  // namespace internvl::INTERNVL_ISA
