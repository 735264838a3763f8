// Where attention writes: rows of fp32, or of bf16 where the matrix behind it multiplies those.
#pragma once

#include <array>
#include <cstddef>
#include <span>

#include "kernels/attention/attention.h"
#include "kernels/matmul/bfloat16_gemm.h"
#include "kernels/vector/storage.h"
#include "runtime/features.h"
#include "runtime/function_ref.h"

namespace internvl {

struct AttentionOutput {
  float* values;      // [rows] at a distance of `stride`; null where they are rounded
  BFloat16* rounded;  // alike
  std::size_t stride;

  // Calls `write` with a place for each of up to attention_rows rows of [head_dim] in fp32, and brings what
  // it writes to where these rows begin, in elements from the output's first.
  void finish(std::span<const std::size_t> begins, std::size_t head_dim, Features features,
              FunctionRef<void(float* const* rows)> write) const {
    std::array<float*, attention_rows> rows{};
    if (rounded == nullptr) {
      for (std::size_t r = 0; r < begins.size(); ++r) rows[r] = values + begins[r];
      write(rows.data());
      return;
    }
    std::array<float, attention_rows * most_head_dim> exact;
    for (std::size_t r = 0; r < begins.size(); ++r) rows[r] = &exact[r * head_dim];
    write(rows.data());
    const BFloat16GemmKernels& kernels = bfloat16_gemm_kernels(features);
    for (std::size_t r = 0; r < begins.size(); ++r) {
      kernels.round(rows[r], head_dim, 1, head_dim, rounded + begins[r], head_dim);
    }
  }
};

}  // namespace internvl
