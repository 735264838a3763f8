// Division and multiples, rounded up. For code that is compiled once: kernels are compiled per instruction
// set and must not share an inline function with it.
#pragma once

#include <cstddef>

namespace internvl {

constexpr std::size_t divide_up(std::size_t n, std::size_t step) { return (n + step - 1) / step; }

// The least multiple of `step` that is not below n.
constexpr std::size_t round_up(std::size_t n, std::size_t step) { return divide_up(n, step) * step; }

}  // namespace internvl
