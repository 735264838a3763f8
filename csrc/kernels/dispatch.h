// Picks a kernel family's table of functions for the features of the processor.
//
// A family declares its table, a struct of function pointers, and a function of the features that returns it.
// Its source is compiled once per variant, in namespace internvl::INTERNVL_ISA, and defines there a function
// of the same name without arguments. internvl_add_kernels() of cmake/InstructionSets.cmake, which is told
// the family's variants, writes the function that picks one.
#pragma once

#include <span>

#include "runtime/features.h"

namespace internvl {

template <class Table>
struct KernelVariant {
  Features needs;
  const Table& (*table)();
};

// The first variant whose needs are met; the last one needs nothing.
template <class Table>
const Table& first_of(std::span<const KernelVariant<Table>> variants, Features features) {
  for (const KernelVariant<Table>& variant : variants.first(variants.size() - 1)) {
    if (features.include(variant.needs)) return variant.table();
  }
  return variants.back().table();
}

}  // namespace internvl
