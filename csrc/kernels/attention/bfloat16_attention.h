// Attention of the vision tower, where every query sees all keys, with queries, keys, values and the weights
// of values rounded to bf16 and summed in fp32: twice as fast as in fp32 on processors that multiply pairs of
// bf16. Beside weights that are stored in bf16 or as integers, whose activations are rounded anyway.
//
// Keys are taken in blocks with an online softmax, as in attention.h. What becomes of a query depends on it
// and on the keys and values alone, bit for bit.
#pragma once

#include <cstddef>

#include "kernels/dispatch.h"
#include "kernels/vector/storage.h"
#include "runtime/data_type.h"

namespace internvl {

// Keys of a block, which lie as words of two neighbouring elements, [head_dim / 2, keys], before its values,
// words of two neighbouring keys, [keys / 2, head_dim]; head_dim is rounded up to a multiple of
// bfloat16_head_step.
inline constexpr std::size_t bfloat16_key_block = 64;
inline constexpr std::size_t bfloat16_head_step = 16;
// The most query rows of one call.
inline constexpr std::size_t bfloat16_attention_rows = 24;

// Elements of the packed keys and values of one head.
constexpr std::size_t bfloat16_attention_elements(std::size_t tokens, std::size_t head_dim) {
  const std::size_t blocks = (tokens + bfloat16_key_block - 1) / bfloat16_key_block;
  const std::size_t width = (head_dim + bfloat16_head_step - 1) / bfloat16_head_step * bfloat16_head_step;
  return 2 * blocks * bfloat16_key_block * width;
}

// Whether attention beside weights of that type is computed in bf16.
constexpr bool attends_in_bfloat16(DataType weights, Features features) {
  return (weights == DataType::bfloat16 || is_integer(weights)) && features.has(Feature::avx512_bf16);
}

// Queries, keys and values are rows of [head_dim], `stride` apart; head_dim is at most most_head_dim.
struct BFloat16AttentionKernels {
  void (*pack)(const float* keys, const float* values, std::size_t stride, std::size_t tokens,
               std::size_t head_dim, BFloat16* packed);
  // out[rows, head_dim] = softmax(scale * queries . keys) . values, at a distance of out_stride.
  void (*attend)(const float* queries, std::size_t stride, std::size_t rows, const BFloat16* packed,
                 std::size_t tokens, std::size_t head_dim, float scale, float* out, std::size_t out_stride);
};

const BFloat16AttentionKernels& bfloat16_attention_kernels(Features features);

}  // namespace internvl
