// The portable FloatVector: plain loops that any compiler turns into whatever the baseline has.
// Included by float/vector.h, where the interface is described.
#pragma once

namespace internvl::INTERNVL_ISA {

struct FloatVector {
  float lane[8];
};

// Rows of x and rows of W whose dot products a GEMM keeps in registers at once.
constexpr int tile_rows = 2;
constexpr int tile_columns = 2;
// Rows that meet two vectors of keys or values at once in attention.
constexpr int attention_tile_rows = 2;

inline float bits_as_float(std::uint32_t bits) {
  float value = 0;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

inline float widen(float x) { return x; }
inline float widen(std::int8_t x) { return static_cast<float>(x); }
inline float widen(BFloat16 x) { return bits_as_float(static_cast<std::uint32_t>(x.bits) << 16U); }
inline float widen(Float16 x) {
  const std::uint32_t sign = (std::uint32_t{x.bits} & 0x8000U) << 16U;
  const std::uint32_t exponent = (static_cast<std::uint32_t>(x.bits) >> 10U) & 0x1FU;
  const std::uint32_t fraction = std::uint32_t{x.bits} & 0x3FFU;
  if (exponent == 0) {  // subnormal: fraction * 2^-24
    const float magnitude = static_cast<float>(fraction) * (1.0F / 16777216.0F);
    return sign == 0 ? magnitude : -magnitude;
  }
  if (exponent == 0x1FU) return bits_as_float(sign | 0x7F800000U | fraction << 13U);
  return bits_as_float(sign | (exponent + 112U) << 23U | fraction << 13U);
}

template <class Function>
inline FloatVector each_lane(Function function) {
  FloatVector result;
  for (int i = 0; i < 8; ++i) result.lane[i] = function(i);
  return result;
}

inline FloatVector broadcast(float x) {
  return each_lane([=](int) { return x; });
}
template <class T>
inline FloatVector load(const T* p) {
  return each_lane([=](int i) { return widen(p[i]); });
}
template <class T>
inline FloatVector load(const T* p, std::size_t remaining) {
  return each_lane([=](int i) { return static_cast<std::size_t>(i) < remaining ? widen(p[i]) : 0.0F; });
}
inline void store(float* p, FloatVector v) {
  for (int i = 0; i < 8; ++i) p[i] = v.lane[i];
}
inline void store(float* p, FloatVector v, std::size_t remaining) {
  for (std::size_t i = 0; i < 8 && i < remaining; ++i) p[i] = v.lane[i];
}

inline FloatVector operator+(FloatVector a, FloatVector b) {
  return each_lane([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline FloatVector operator-(FloatVector a, FloatVector b) {
  return each_lane([&](int i) { return a.lane[i] - b.lane[i]; });
}
inline FloatVector operator*(FloatVector a, FloatVector b) {
  return each_lane([&](int i) { return a.lane[i] * b.lane[i]; });
}
inline FloatVector operator/(FloatVector a, FloatVector b) {
  return each_lane([&](int i) { return a.lane[i] / b.lane[i]; });
}
inline FloatVector fma(FloatVector a, FloatVector b, FloatVector c) {
  return each_lane([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
}
// The second operand where either is NaN, as on x86.
inline FloatVector max(FloatVector a, FloatVector b) {
  return each_lane([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline FloatVector min(FloatVector a, FloatVector b) {
  return each_lane([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}
// 0 in the lanes where x < limit, `value` in the others.
inline FloatVector zero_where_less(FloatVector x, FloatVector limit, FloatVector value) {
  return each_lane([&](int i) { return x.lane[i] < limit.lane[i] ? 0.0F : value.lane[i]; });
}
// x * 2^n for integral -126 <= n <= 127.
inline FloatVector times_power_of_two(FloatVector x, FloatVector n) {
  return each_lane([&](int i) {
    // Whatever n is where x is NaN, the conversion must be defined.
    const float exponent = n.lane[i] >= -126.0F && n.lane[i] <= 127.0F ? n.lane[i] : 0.0F;
    return x.lane[i] * bits_as_float(static_cast<std::uint32_t>(static_cast<int>(exponent) + 127) << 23U);
  });
}

inline float reduce_add(FloatVector v) {
  return ((v.lane[0] + v.lane[1]) + (v.lane[2] + v.lane[3])) +
         ((v.lane[4] + v.lane[5]) + (v.lane[6] + v.lane[7]));
}
inline void reduce_add4(FloatVector a, FloatVector b, FloatVector c, FloatVector d, float* sums) {
  sums[0] = reduce_add(a);
  sums[1] = reduce_add(b);
  sums[2] = reduce_add(c);
  sums[3] = reduce_add(d);
}
inline float reduce_max(FloatVector v) {
  float greatest = v.lane[0];
  for (int i = 1; i < 8; ++i) greatest = greatest > v.lane[i] ? greatest : v.lane[i];
  return greatest;
}

}  // namespace internvl::INTERNVL_ISA
