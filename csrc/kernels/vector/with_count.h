// From a number that is known when a kernel runs to one that is known when it is compiled, so that a tile of
// so many rows keeps its sums in registers. Included by kernel sources only.
#pragma once

#include <cstddef>

namespace internvl::INTERNVL_ISA {

template <int N>
struct Count {
  static constexpr int value = N;
};

// function(Count<n>{}), or function(Count<Most>{}) where n is greater; n is at least 1.
template <int Most, class Function>
void with_count(std::size_t n, Function function) {
  if constexpr (Most > 1) {
    if (n < static_cast<std::size_t>(Most)) return with_count<Most - 1>(n, function);
  }
  function(Count<Most>{});
}

}  // namespace internvl::INTERNVL_ISA
