// Picks a kernel family's table of functions for the instruction set in use.
//
// A family declares its table (a struct of function pointers) and, with INTERNVL_DECLARE_KERNELS, one
// function per instruction set that returns it; the family's kernel source, compiled once per set, defines
// that function in namespace internvl::INTERNVL_ISA.
//
// neon_i8mm differs from neon_dotprod in products of matrices alone: only families declared with
// INTERNVL_DECLARE_MATRIX_KERNELS are compiled for it (internvl_add_matrix_kernels), the others are the same.
#pragma once

#include "runtime/error.h"
#include "runtime/instruction_set.h"

// A macro because the namespace is what differs: the same source defines the function in one namespace per
// set.
#if defined(__x86_64__)
#define INTERNVL_DECLARE_KERNELS(Table, function)    \
  namespace portable {                               \
  const Table& function();                           \
  }                                                  \
  namespace avx2 {                                   \
  const Table& function();                           \
  }                                                  \
  namespace avx512 {                                 \
  const Table& function();                           \
  }                                                  \
  inline const Table& function(InstructionSet set) { \
    switch (set) {                                   \
      case InstructionSet::avx512:                   \
      case InstructionSet::avx512_bf16:              \
        return avx512::function();                   \
      case InstructionSet::avx2:                     \
        return avx2::function();                     \
      default:                                       \
        return portable::function();                 \
    }                                                \
  }
#elif defined(__aarch64__)
// `i8mm` is the set whose code neon_i8mm runs.
#define INTERNVL_DECLARE_ARM_KERNELS(Table, function, i8mm) \
  namespace portable {                                      \
  const Table& function();                                  \
  }                                                         \
  namespace neon {                                          \
  const Table& function();                                  \
  }                                                         \
  namespace neon_dotprod {                                  \
  const Table& function();                                  \
  }                                                         \
  namespace i8mm {                                          \
  const Table& function();                                  \
  }                                                         \
  inline const Table& function(InstructionSet set) {        \
    switch (set) {                                          \
      case InstructionSet::neon_i8mm:                       \
        return i8mm::function();                            \
      case InstructionSet::neon_dotprod:                    \
        return neon_dotprod::function();                    \
      case InstructionSet::neon:                            \
        return neon::function();                            \
      default:                                              \
        return portable::function();                        \
    }                                                       \
  }
#define INTERNVL_DECLARE_KERNELS(Table, function) INTERNVL_DECLARE_ARM_KERNELS(Table, function, neon_dotprod)
#define INTERNVL_DECLARE_MATRIX_KERNELS(Table, function) \
  INTERNVL_DECLARE_ARM_KERNELS(Table, function, neon_i8mm)
#else
#define INTERNVL_DECLARE_KERNELS(Table, function) \
  namespace portable {                            \
  const Table& function();                        \
  }                                               \
  inline const Table& function(InstructionSet) { return portable::function(); }
#endif

#if !defined(INTERNVL_DECLARE_MATRIX_KERNELS)
#define INTERNVL_DECLARE_MATRIX_KERNELS INTERNVL_DECLARE_KERNELS
#endif
