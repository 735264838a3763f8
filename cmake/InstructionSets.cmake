# Kernels are written once and compiled once per instruction set.
#
#   internvl_add_kernels(TARGET source...)
#
# compiles every source for each instruction set in INTERNVL_INSTRUCTION_SETS, with INTERNVL_ISA set to the set's
# name: the sources put their code into namespace internvl::INTERNVL_ISA, and csrc/kernels/dispatch.h picks a table of
# functions from those namespaces at run time. "portable" is always built.
#
#   internvl_add_matrix_kernels(TARGET source...)
#
# compiles them for INTERNVL_MATRIX_SETS too: sets that multiply matrices in another way than the one before them, and
# have no code of their own for anything else.

if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
  set(INTERNVL_INSTRUCTION_SETS portable avx2 avx512)
  set(INTERNVL_MATRIX_SETS)
  # Processors that multiply bf16 too have no build of their own: see kernels/vector/bfloat16/vector.h.
  set(INTERNVL_BFLOAT16_SETS avx512_bf16)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  set(INTERNVL_INSTRUCTION_SETS portable neon neon_dotprod)
  set(INTERNVL_MATRIX_SETS neon_i8mm)
  set(INTERNVL_BFLOAT16_SETS neon_i8mm)
else()
  set(INTERNVL_INSTRUCTION_SETS portable)
  set(INTERNVL_MATRIX_SETS)
  set(INTERNVL_BFLOAT16_SETS)
endif()

set(INTERNVL_FLAGS_portable "")
set(INTERNVL_FLAGS_avx2 -mavx2 -mfma -mf16c)
# GCC 12 warns of its own header, where intrinsics begin with a register that they do not read.
set(INTERNVL_FLAGS_avx512 ${INTERNVL_FLAGS_avx2} -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni
                          -Wno-maybe-uninitialized -Wno-uninitialized)
set(INTERNVL_FLAGS_neon "")  # part of the aarch64 baseline
set(INTERNVL_FLAGS_neon_dotprod -march=armv8.2-a+dotprod)
# GCC 12 would move loads ahead of products before it assigns registers, and spill sums for them.
set(INTERNVL_FLAGS_neon_i8mm -march=armv8.2-a+dotprod+i8mm+bf16 -fno-schedule-insns)

# For tests on machines without AVX-512: the same kernels, their AVX-512 intrinsics as portable code by SIMDe
# (Debian's libsimde-dev). Correct, and far too slow for anything else.
option(INTERNVL_EMULATE_AVX512 "Compile the avx512 kernels against SIMDe, for tests" OFF)
if(INTERNVL_EMULATE_AVX512)
  find_path(INTERNVL_SIMDE simde/x86/avx512.h REQUIRED)
  # GCC 12 ends with an internal error in its scalar replacement of SIMDe's unions.
  set(INTERNVL_FLAGS_avx512 ${INTERNVL_FLAGS_avx2} -DINTERNVL_EMULATED_AVX512 -idirafter ${INTERNVL_SIMDE} -fno-tree-sra
                            -Wno-psabi)
endif()

function(internvl_compile_kernels target sets)
  foreach(isa IN LISTS sets)
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

function(internvl_add_kernels target)
  internvl_compile_kernels(${target} "${INTERNVL_INSTRUCTION_SETS}" ${ARGN})
endfunction()

function(internvl_add_matrix_kernels target)
  set(sets ${INTERNVL_INSTRUCTION_SETS} ${INTERNVL_MATRIX_SETS})
  internvl_compile_kernels(${target} "${sets}" ${ARGN})
endfunction()
