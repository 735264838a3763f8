#pragma once

#include <cstddef>

namespace internvl {

// How a tensor's elements are stored. int4: two elements to a byte, the low nibble first, two's complement.
enum class DataType { float32, float16, bfloat16, int8, int4 };

// Neighbours in a row of int4 weights that share a scale.
inline constexpr std::size_t int4_block = 32;

// Whether weights of this type are multiplied as integers.
constexpr bool is_integer(DataType type) { return type == DataType::int8 || type == DataType::int4; }

}  // namespace internvl
