// Column words of eight columns, whose sums are a FloatVector. Included by the headers of the sets that have
// no wider ones.
#pragma once

namespace internvl::INTERNVL_ISA {

constexpr std::size_t integer_word_columns = 8;

using WordFloats = FloatVector;
inline WordFloats broadcast_word_floats(float x) { return broadcast(x); }
inline WordFloats word_floats(const FloatVector (&eights)[1]) { return eights[0]; }
inline void store_word_floats(float* p, WordFloats v) { store(p, v); }

}  // namespace internvl::INTERNVL_ISA
