// Panels that meet one row of x at a time. Included at the end of the headers of the sets that have no
// products of matrices.
#pragma once

// Before loops over groups: nothing.
#define INTERNVL_UNROLL_GROUPS

namespace internvl::INTERNVL_ISA {

constexpr std::size_t row_group = 1;
constexpr std::size_t word_bytes = 4;

using GroupSums = Int32Vector;
using GroupWord = Int8Vector;
using GroupFloats = ColumnFloats;
using NibbleWeights = Int8Vector;

inline GroupSums broadcast_sums(std::int32_t x) { return broadcast_sum(x); }
inline GroupSums load_sums(const std::int32_t* p, std::size_t) { return load_sums(p); }
inline void store_sums(std::int32_t* p, std::size_t, GroupSums v) { store_sums(p, v); }
inline GroupWord broadcast_word(const std::int8_t* p) { return broadcast_four(p); }

inline NibbleWeights load_nibbles(const std::int8_t* p) { return load_int8(p); }
inline PanelInputs nibble_inputs(PanelInputs x, std::size_t, std::size_t, std::int8_t*, std::size_t) {
  return x;
}

inline GroupFloats zero_floats() { return broadcast_columns(0.0F); }
inline GroupFloats load_floats(const float* p, std::size_t) { return load_columns(p); }
inline void store_floats(float* p, std::size_t, GroupFloats v) { store_columns(p, v); }
inline GroupFloats column_floats(const float* p) { return load_columns(p); }
inline GroupFloats row_floats(const float* p, std::size_t) { return broadcast_columns(*p); }

}  // namespace internvl::INTERNVL_ISA
