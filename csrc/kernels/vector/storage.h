// Element types that C++20 has no name for. They only hold bits; vectors load them as fp32.
#pragma once

#include <cstdint>

namespace internvl {

struct Float16 {  // IEEE 754 binary16
  std::uint16_t bits;
};

struct BFloat16 {  // the upper half of an fp32
  std::uint16_t bits;
};

}  // namespace internvl
