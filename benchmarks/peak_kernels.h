// What a core can do at most, measured with the vector layer that the kernels are written in.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/dispatch.h"

namespace internvl {

struct PeakKernels {
  // Runs `rounds` rounds of independent fp32 multiply-adds; returns how many operations (two each) that were.
  double (*fp32)(std::size_t rounds, float* sink);
  // As above, with pairs of bf16; for avx512 only where the processor multiplies those (see bfloat16_gemm.h).
  double (*bfloat16)(std::size_t rounds, float* sink);
  // As above, with products of int8.
  double (*int8)(std::size_t rounds, std::int32_t* sink);
  // Reads `bytes` bytes, a multiple of 4096, at `data`.
  void (*read)(const std::byte* data, std::size_t bytes, std::int32_t* sink);
};

const PeakKernels& peak_kernels(Features features);

}  // namespace internvl
