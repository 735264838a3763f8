# Kernels are written once and compiled once per variant: a set of compiler flags, and the features of the processor
# that the result needs. A variant is also an instruction set that tests can force by its name (INTERNVL_RT_ISA).
# Adding one touches this file, and the families (csrc/CMakeLists.txt) that have code of their own for it.
#
#   internvl_add_kernels(TARGET
#     TABLE NormKernels FUNCTION norm_kernels HEADER kernels/norm/norm.h
#     VARIANTS avx2 avx512 neon        # "portable" is always built; those of other processors are passed over
#     SOURCES kernels/norm/norm_kernels.cpp)
#
# compiles every source for each variant with INTERNVL_ISA set to the variant's name, which is the namespace that the
# sources put their code into, and with INTERNVL_<FEATURE> defined for each feature. It also writes the family's
# function, which picks the variant for a processor: of those whose needs are met, the one that is listed last.

set(INTERNVL_VARIANTS)  # from the plainest to the best

function(internvl_variant name)
  cmake_parse_arguments(PARSE_ARGV 1 A "" "" "FEATURES;FLAGS")
  set(INTERNVL_VARIANTS ${INTERNVL_VARIANTS} ${name} PARENT_SCOPE)
  set(INTERNVL_FEATURES_${name} ${A_FEATURES} PARENT_SCOPE)
  set(INTERNVL_FLAGS_${name} ${A_FLAGS} PARENT_SCOPE)
endfunction()

# For tests on machines without AVX-512: the same kernels, their AVX-512 intrinsics as portable code by SIMDe
# (Debian's libsimde-dev). Correct, and far too slow for anything else.
option(INTERNVL_EMULATE_AVX512 "Compile the avx512 and avx_vnni kernels against SIMDe, for tests" OFF)
# The same for AMX: tiles in memory and loops (runtime/emulated_tiles.h), over AVX-512 of either kind.
option(INTERNVL_EMULATE_AMX "Compile the amx kernels over emulated tiles, for tests" OFF)
# For tests on machines with AVX-512 VNNI and without AVX-VNNI, which is the same instruction in another encoding.
option(INTERNVL_AVX_VNNI_IN_EVEX "Compile the avx_vnni kernels for processors with AVX-512, for tests" OFF)

internvl_variant(portable)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
  set(avx2 -mavx2 -mfma -mf16c)
  if(INTERNVL_EMULATE_AVX512)
    find_path(INTERNVL_SIMDE simde/x86/avx512.h REQUIRED)
    # GCC 12 ends with an internal error in its scalar replacement of SIMDe's unions.
    set(emulated -DINTERNVL_EMULATED_AVX512 -idirafter ${INTERNVL_SIMDE} -fno-tree-sra -Wno-psabi)
    set(avx512 ${avx2} ${emulated})
    set(avx_vnni ${avx2} ${emulated})
  else()
    # GCC 12 warns of its own header, where intrinsics begin with a register that they do not read.
    set(avx512 ${avx2} -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni
               -Wno-maybe-uninitialized -Wno-uninitialized)
    # Products of bytes are inline assembly: no flag.
    set(avx_vnni ${avx2})
    if(INTERNVL_AVX_VNNI_IN_EVEX)
      list(APPEND avx_vnni -DINTERNVL_AVX_VNNI_IN_EVEX)
    endif()
  endif()
  internvl_variant(avx2 FEATURES avx2 FLAGS ${avx2})
  internvl_variant(avx_vnni FEATURES avx2 avx_vnni FLAGS ${avx_vnni})
  internvl_variant(avx512 FEATURES avx2 avx512 FLAGS ${avx512})
  # Products of bf16 are inline assembly: no flag.
  internvl_variant(avx512_bf16 FEATURES avx2 avx512 avx512_bf16 FLAGS ${avx512})
  # So are those of tiles.
  if(INTERNVL_EMULATE_AMX)
    set(amx ${avx512} -DINTERNVL_EMULATED_AMX)
  else()
    set(amx ${avx512})
  endif()
  internvl_variant(amx FEATURES avx2 avx512 avx512_bf16 amx_int8 amx_bf16 FLAGS ${amx})
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  # GCC 12 would move loads ahead of products before it assigns registers, and spill sums for them.
  set(neon -fno-schedule-insns)
  internvl_variant(neon FEATURES neon FLAGS ${neon})  # part of the baseline
  internvl_variant(neon_dotprod FEATURES neon dotprod FLAGS ${neon} -march=armv8.2-a+dotprod)
  internvl_variant(neon_i8mm FEATURES neon dotprod i8mm FLAGS ${neon} -march=armv8.2-a+dotprod+i8mm+bf16)
endif()

set(INTERNVL_GENERATED "${CMAKE_CURRENT_BINARY_DIR}/generated")

# "{Feature::avx2, Feature::avx512}"
function(internvl_features_of variant out)
  list(TRANSFORM INTERNVL_FEATURES_${variant} PREPEND "Feature::" OUTPUT_VARIABLE features)
  list(JOIN features ", " features)
  set(${out} "{${features}}" PARENT_SCOPE)
endfunction()

block()
  set(lines "")
  foreach(variant IN LISTS INTERNVL_VARIANTS)
    internvl_features_of(${variant} features)
    string(APPEND lines "    {\"${variant}\", ${features}},\n")
  endforeach()
  file(CONFIGURE OUTPUT "${INTERNVL_GENERATED}/runtime/instruction_sets.h" CONTENT [[
// Written by cmake/InstructionSets.cmake.
#pragma once

#include <string_view>

#include "runtime/features.h"

namespace internvl {

struct InstructionSet {
  std::string_view name;
  Features features;
};

inline constexpr InstructionSet instruction_sets[] = {
@lines@};

}  // namespace internvl
]] @ONLY)
endblock()

function(internvl_add_kernels target)
  cmake_parse_arguments(PARSE_ARGV 1 A "" "TABLE;FUNCTION;HEADER" "VARIANTS;SOURCES")
  set(declarations "")
  set(choices "")
  foreach(variant IN LISTS INTERNVL_VARIANTS)
    if(NOT variant STREQUAL "portable" AND NOT variant IN_LIST A_VARIANTS)
      continue()
    endif()
    set(objects ${target}_kernels_${variant})
    if(NOT TARGET ${objects})
      add_library(${objects} OBJECT)
      target_include_directories(${objects} PRIVATE "${PROJECT_SOURCE_DIR}/csrc" "${INTERNVL_GENERATED}")
      list(TRANSFORM INTERNVL_FEATURES_${variant} TOUPPER OUTPUT_VARIABLE features)
      list(TRANSFORM features PREPEND "INTERNVL_")
      target_compile_definitions(${objects} PRIVATE INTERNVL_ISA=${variant} ${features})
      target_compile_options(${objects} PRIVATE ${INTERNVL_FLAGS_${variant}})
      target_link_libraries(${objects} PRIVATE internvl_warnings)
      target_link_libraries(${target} PRIVATE "$<BUILD_INTERFACE:${objects}>")
    endif()
    target_sources(${objects} PRIVATE ${A_SOURCES})
    internvl_features_of(${variant} features)
    string(APPEND declarations "namespace ${variant} {\nconst ${A_TABLE}& ${A_FUNCTION}();\n}\n")
    string(PREPEND choices "      {${features}, ${variant}::${A_FUNCTION}},\n")
  endforeach()
  set(file "${INTERNVL_GENERATED}/kernels/${A_FUNCTION}.cpp")
  file(CONFIGURE OUTPUT "${file}" CONTENT [[
// Written by cmake/InstructionSets.cmake.
#include "@A_HEADER@"
#include "kernels/dispatch.h"

namespace internvl {

@declarations@
const @A_TABLE@& @A_FUNCTION@(Features features) {
  static constexpr KernelVariant<@A_TABLE@> variants[] = {
@choices@  };
  return first_of<@A_TABLE@>(variants, features);
}

}  // namespace internvl
]] @ONLY)
  target_sources(${target} PRIVATE "${file}")
endfunction()
