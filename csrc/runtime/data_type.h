#pragma once

namespace internvl {

// How a tensor's elements are stored. int4: two elements to a byte, the low nibble first, two's complement.
enum class DataType { float32, float16, bfloat16, int8, int4 };

}  // namespace internvl
