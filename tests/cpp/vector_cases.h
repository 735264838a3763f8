// Single operations of the vector layer as functions that a test can call.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/dispatch.h"
#include "kernels/vector/storage.h"

namespace internvl {

struct VectorCases {
  void (*exp)(const float* x, float* out);
  void (*gelu)(const float* x, float* out);
  void (*copy_part)(const float* x, std::size_t count, float* out);
  void (*load_float16)(const Float16* x, float* out);
  void (*load_bfloat16)(const BFloat16* x, float* out);
  void (*load_int8)(const std::int8_t* x, float* out);
  void (*load_float16_part)(const Float16* x, std::size_t count, float* out);
  void (*load_int8_part)(const std::int8_t* x, std::size_t count, float* out);
  float (*reduce_add)(const float* x);
  float (*reduce_max)(const float* x);
  void (*reduce_add4)(const float* x, float* sums);  // of four vectors, one after the other
};

const VectorCases& vector_cases(Features features);

}  // namespace internvl
