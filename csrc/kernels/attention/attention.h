// Attention over keys and values in blocks, never a matrix of scores: causal over the paged cache, with
// grouped queries, for prefill and decode; and bidirectional in the vision tower, where every row sees all
// keys.
//
// The keys that a query sees are taken in blocks of `cache_block` with an online softmax (Milakov and
// Gimelshein 2018; Dao et al. 2022), and blocks in spans of `span_blocks` that are computed apart and merged
// in order. The arithmetic of a query depends on its keys alone: prefill in any chunks, decode, and decode
// beside other sequences give the same bits, and spans may be computed by different threads.
#pragma once

#include <cstddef>

#include "kernels/dispatch.h"
#include "runtime/data_type.h"

namespace internvl {

// Tokens of a block.
inline constexpr std::size_t cache_block = 64;
// Blocks of a cache whose keys one pass of the online softmax goes over.
inline constexpr std::size_t span_blocks = 8;
// The most query rows of one call, and the greatest head_dim.
inline constexpr std::size_t attention_rows = 32;
inline constexpr std::size_t most_head_dim = 256;

// Elements from one row of values to the next, of a block and of an AttentionState.
constexpr std::size_t value_width(std::size_t head_dim) { return (head_dim + 15) / 16 * 16; }

// The keys and values of one head and cache_block tokens, in a form that is multiplied as it lies:
//
//   float32, float16   keys [head_dim, cache_block], so that scores of neighbouring keys are neighbouring
//                      lanes; then values [cache_block, value_width]
//   bfloat16, int8     words of two elements: keys [head_dim / 2, cache_block, 2], two neighbouring elements
//                      of a key; then values [cache_block / 2, value_width, 2], those of two neighbouring
//                      keys
//   int8               then fp32 scales [cache_block] of the keys, and of the values: one for each token
//
// bfloat16 and int8 are multiplied in bf16, summed in fp32, where the processor multiplies pairs of bf16:
// queries and the weights of values are rounded to that. Everywhere else everything is fp32.
constexpr std::size_t attention_block_elements(std::size_t head_dim) {
  return (head_dim + value_width(head_dim)) * cache_block;
}

// Whether attention over keys and values stored as bfloat16 multiplies in bf16, twice as fast as fp32.
constexpr bool attends_in_bfloat16(Features features) { return features.has(Feature::avx512_bf16); }
// The same for a tower whose layers have weights of that type: such whose activations are rounded anyway.
constexpr bool attends_in_bfloat16(DataType weights, Features features) {
  return (weights == DataType::bfloat16 || is_integer(weights)) && attends_in_bfloat16(features);
}

// Keys and values of neighbouring tokens.
struct TokenRows {
  const float* keys;  // [count] of [head_dim], `stride` apart; values alike
  const float* values;
  std::size_t stride;
  std::size_t count;
  std::size_t head_dim;  // a multiple of 8, at most most_head_dim
};

// Query rows that share a kv head: heads of its group, at one or several positions.
struct QueryRows {
  std::size_t rows;             // at most attention_rows
  const float* const* queries;  // [rows] of [head_dim]
  const std::size_t* visible;   // [rows], ascending: how many keys of the sequence each row sees
  std::size_t head_dim;         // a multiple of 8, at most most_head_dim
  float scale;                  // of the scores, greater than 0
};

// What an online softmax knows of each row. Scores count in powers of two: times log2(e).
struct AttentionState {
  float* greatest;  // [rows] greatest score
  float* total;     // [rows] sum of 2^(score - greatest)
  float* values;    // [rows, value_width] sum of 2^(score - greatest) * value
};

// What depends on how keys and values are stored.
struct BlockKernels {
  // Stores tokens in places `slot` and following of a block, which has room for them. float16 beyond 65504
  // becomes that; a scale of int8 makes 127 the greatest magnitude.
  using Write = void (*)(const TokenRows& tokens, std::size_t slot, std::byte* block);
  // Computes the state of one span: `count` blocks, whose first key is number `first_key` of the sequence.
  // Rows that see none of them get greatest = -infinity, total = 0. What a block holds behind the tokens that
  // were written may be anything.
  using Attend = void (*)(const QueryRows& job, const std::byte* const* blocks, std::size_t first_key,
                          std::size_t count, const AttentionState& state);
  Write write;
  Attend attend;
};

struct AttentionKernels {
  BlockKernels float32;
  BlockKernels float16;
  BlockKernels bfloat16;
  BlockKernels int8;
  // Merges the state of the next span into that of the spans before.
  void (*merge)(std::size_t rows, std::size_t head_dim, const AttentionState& state,
                const AttentionState& next);
  // Writes values / total to out[row] of [head_dim].
  void (*finish)(std::size_t rows, std::size_t head_dim, const AttentionState& state, float* const* out);
};

const AttentionKernels& attention_kernels(Features features);

}  // namespace internvl
