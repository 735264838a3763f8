// Random numbers and weights of every type for kernel tests, with the fp64 values that they stand for.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/matmul/weight_matrix.h"

namespace internvl::test {

inline constexpr DataType weight_types[] = {DataType::float32, DataType::float16, DataType::bfloat16,
                                            DataType::int8, DataType::int4};

inline std::vector<float> random_floats(std::size_t count, unsigned seed, float deviation = 1.0F) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0F, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

// IEEE binary16 to fp64, from the definition.
inline double half_value(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const int fraction = bits & 1023;
  const double magnitude =
      exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

inline double bfloat_value(std::uint16_t bits) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float value = 0;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

// A matrix in the bundle's storage, and its exact values [rows, columns].
struct RandomWeights {
  std::vector<std::byte> values_bytes;
  std::vector<std::byte> scales_bytes;
  std::vector<double> exact;
  WeightMatrix matrix;

  RandomWeights(DataType type, std::size_t rows, std::size_t columns, unsigned seed)
      : exact(rows * columns), matrix{type, nullptr, nullptr, rows, columns} {
    std::mt19937 generator(seed);
    const std::size_t count = rows * columns;
    const auto put = [](std::vector<std::byte>& bytes, std::size_t i, auto value) {
      std::memcpy(bytes.data() + i * sizeof(value), &value, sizeof(value));
    };
    // Halves of moderate size, of both signs, now and then subnormal.
    const auto random_half = [&] {
      const unsigned exponent = generator() % 64 == 0 ? 0 : 8 + generator() % 8;
      return static_cast<std::uint16_t>((generator() & 0x83FFU) | exponent << 10);
    };
    switch (type) {
      case DataType::float32: {
        values_bytes.resize(count * 4);
        const std::vector<float> floats = random_floats(count, seed);
        for (std::size_t i = 0; i < count; ++i) {
          put(values_bytes, i, floats[i]);
          exact[i] = floats[i];
        }
        break;
      }
      case DataType::float16:
        values_bytes.resize(count * 2);
        for (std::size_t i = 0; i < count; ++i) {
          const std::uint16_t bits = random_half();
          put(values_bytes, i, bits);
          exact[i] = half_value(bits);
        }
        break;
      case DataType::bfloat16:
        values_bytes.resize(count * 2);
        for (std::size_t i = 0; i < count; ++i) {
          const auto bits =
              static_cast<std::uint16_t>((generator() & 0x80FFU) | (120U + generator() % 8) << 7);
          put(values_bytes, i, bits);
          exact[i] = bfloat_value(bits);
        }
        break;
      case DataType::int8:
        values_bytes.resize(count);
        scales_bytes.resize(rows * 4);
        for (std::size_t n = 0; n < rows; ++n) {
          const float scale = 0.001F * static_cast<float>(1 + generator() % 100);
          put(scales_bytes, n, scale);
          for (std::size_t k = 0; k < columns; ++k) {
            const auto value = static_cast<std::int8_t>(static_cast<int>(generator() % 256) - 128);
            put(values_bytes, n * columns + k, value);
            exact[n * columns + k] = static_cast<double>(value) * scale;
          }
        }
        break;
      case DataType::int4:
        values_bytes.resize(count / 2);
        scales_bytes.resize(count / 32 * 2);
        for (std::size_t block = 0; block < count / 32; ++block) {
          const std::uint16_t scale = random_half();
          put(scales_bytes, block, scale);
          for (std::size_t i = 0; i < 16; ++i) {
            const auto byte = static_cast<std::uint8_t>(generator());
            put(values_bytes, block * 16 + i, byte);
            const int low = (byte & 15) >= 8 ? (byte & 15) - 16 : byte & 15;
            const int high = byte >> 4 >= 8 ? (byte >> 4) - 16 : byte >> 4;
            exact[block * 32 + 2 * i] = low * half_value(scale);
            exact[block * 32 + 2 * i + 1] = high * half_value(scale);
          }
        }
        break;
    }
    matrix.values = values_bytes.data();
    matrix.scales = scales_bytes.empty() ? nullptr : scales_bytes.data();
  }
};

}  // namespace internvl::test
