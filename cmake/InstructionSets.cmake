# Kernels are written once and compiled once per instruction set.
#
#   internvl_add_kernels(TARGET source...)
#
# compiles every source for each instruction set in INTERNVL_INSTRUCTION_SETS, with INTERNVL_ISA set to the set's
# name: the sources put their code into namespace internvl::INTERNVL_ISA, and csrc/kernels/dispatch.h picks a table of
# functions from those namespaces at run time. "portable" is always built.

if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
  set(INTERNVL_INSTRUCTION_SETS portable avx2 avx512)
  set(INTERNVL_BFLOAT16_SETS avx512_bf16)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  set(INTERNVL_INSTRUCTION_SETS portable neon neon_dotprod)
  set(INTERNVL_BFLOAT16_SETS neon_bf16)
else()
  set(INTERNVL_INSTRUCTION_SETS portable)
  set(INTERNVL_BFLOAT16_SETS)
endif()
# Sets of processors that multiply bf16 too have no build of their own: see kernels/vector/bfloat16_vector.h.

set(INTERNVL_FLAGS_portable "")
set(INTERNVL_FLAGS_avx2 -mavx2 -mfma -mf16c)
# GCC 12 warns of its own header, where intrinsics begin with a register that they do not read.
set(INTERNVL_FLAGS_avx512 ${INTERNVL_FLAGS_avx2} -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni
                          -Wno-maybe-uninitialized -Wno-uninitialized)
set(INTERNVL_FLAGS_neon "")  # part of the aarch64 baseline
set(INTERNVL_FLAGS_neon_dotprod -march=armv8.2-a+dotprod)

# For tests on machines without AVX-512: the same kernels, their AVX-512 intrinsics as portable code by SIMDe
# (Debian's libsimde-dev). Correct, and far too slow for anything else.
option(INTERNVL_EMULATE_AVX512 "Compile the avx512 kernels against SIMDe, for tests" OFF)
if(INTERNVL_EMULATE_AVX512)
  find_path(INTERNVL_SIMDE simde/x86/avx512.h REQUIRED)
  # GCC 12 ends with an internal error in its scalar replacement of SIMDe's unions.
  set(INTERNVL_FLAGS_avx512 ${INTERNVL_FLAGS_avx2} -DINTERNVL_EMULATED_AVX512 -idirafter ${INTERNVL_SIMDE} -fno-tree-sra
                            -Wno-psabi)
endif()

function(internvl_add_kernels target)
  foreach(isa IN LISTS INTERNVL_INSTRUCTION_SETS)
    set(objects ${target}_kernels_${isa})
    if(NOT TARGET ${objects})
      add_library(${objects} OBJECT)
      target_include_directories(${objects} PRIVATE "${PROJECT_SOURCE_DIR}/csrc")
      target_compile_definitions(${objects} PRIVATE INTERNVL_ISA=${isa} INTERNVL_ISA_${isa}=1)
      target_compile_options(${objects} PRIVATE ${INTERNVL_FLAGS_${isa}})
      target_link_libraries(${objects} PRIVATE internvl_warnings)
      target_link_libraries(${target} PRIVATE ${objects})
    endif()
    target_sources(${objects} PRIVATE ${ARGN})
  endforeach()
endfunction()
