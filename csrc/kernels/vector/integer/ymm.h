// Sums and bytes in 256 bits: what the avx2 and avx_vnni sets have in common. Included by their headers of
// integer/.
#pragma once

#include "kernels/vector/integer/avx2_shared.h"

namespace internvl::INTERNVL_ISA {

constexpr std::size_t sum_lanes = 8;

struct Int32Vector {
  __m256i value;
};
struct Int8Vector {
  __m256i value;
};

inline Int32Vector broadcast_sum(std::int32_t x) { return {_mm256_set1_epi32(x)}; }
inline Int32Vector load_sums(const std::int32_t* p) { return {load_32_bytes(p)}; }
inline void store_sums(std::int32_t* p, Int32Vector v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v.value);
}
inline Int8Vector load_int8(const std::int8_t* p) { return {load_32_bytes(p)}; }
inline Int8Vector broadcast_four(const std::int8_t* p) { return {broadcast_4_bytes(p)}; }

using ColumnFloats = FloatVector;
inline ColumnFloats broadcast_columns(float x) { return broadcast(x); }
inline ColumnFloats load_columns(const float* p) { return load(p); }
inline void store_columns(float* p, ColumnFloats v) { store(p, v); }
inline ColumnFloats to_float(Int32Vector v) { return {_mm256_cvtepi32_ps(v.value)}; }

[[gnu::always_inline]] inline ByteColumnWords load_int4_column_words(const std::uint8_t* p,
                                                                     std::size_t row_bytes) {
  return words_of(load_int4_columns(p, row_bytes));
}

}  // namespace internvl::INTERNVL_ISA

#include "kernels/vector/integer/eight_column_words.h"
