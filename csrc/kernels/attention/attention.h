// Attention over keys and values in blocks, never a matrix of scores: causal over the paged cache, with
// grouped queries, for prefill and decode; bidirectional over packed blocks for the vision tower, where every
// row sees all keys.
//
// The keys that a query sees are taken in blocks of `cache_block` with an online softmax (Milakov and
// Gimelshein 2018; Dao et al. 2022), and blocks in spans of `span_blocks` that are computed apart and merged
// in order. The arithmetic of a query depends on its keys alone: prefill in any chunks, decode, and decode
// beside other sequences give the same bits, and spans may be computed by different threads.
#pragma once

#include <cstddef>

#include "kernels/dispatch.h"

namespace internvl {

// Tokens of a block of the cache. A block holds, for every layer and kv head, keys [head_dim, cache_block]
// and then values [cache_block, head_dim]: keys lie so that scores of neighbouring keys are neighbouring
// lanes. In int8, fp32 scales [cache_block] of the keys and then of the values follow: one for each token.
inline constexpr std::size_t cache_block = 64;
// Elements of the keys and values of one head in a block.
constexpr std::size_t attention_block_elements(std::size_t head_dim) { return 2 * head_dim * cache_block; }
// Blocks of a cache whose keys one pass of the online softmax goes over.
inline constexpr std::size_t span_blocks = 8;
// The most query rows of one call, and the greatest head_dim.
inline constexpr std::size_t attention_rows = 32;
inline constexpr std::size_t most_head_dim = 256;

// Query rows that share a kv head: heads of its group, at one or several positions.
struct QueryRows {
  std::size_t rows;             // at most attention_rows
  const float* const* queries;  // [rows] of [head_dim]
  const std::size_t* visible;   // [rows], ascending: how many keys of the sequence each row sees
  std::size_t head_dim;         // a multiple of 8, at most most_head_dim
  float scale;                  // of the scores
};

// What an online softmax knows of each row.
struct AttentionState {
  float* greatest;  // [rows] greatest score
  float* total;     // [rows] sum of exp(score - greatest)
  float* values;    // [rows, head_dim] sum of exp(score - greatest) * value
};

struct AttentionKernels {
  // Computes the state of one span: `count` blocks, whose first key is number `first_key` of the sequence.
  // Rows that see none of them get greatest = -infinity, total = 0.
  using Attend = void (*)(const QueryRows& job, const std::byte* const* blocks, std::size_t first_key,
                          std::size_t count, const AttentionState& state);
  Attend attend_float32;
  Attend attend_float16;
  Attend attend_bfloat16;
  Attend attend_int8;
  // Lays keys and values, `count` <= cache_block rows of [head_dim] at a distance of `stride`, out as a block
  // of fp32. What lies behind `count` is left as it is.
  void (*pack)(const float* keys, const float* values, std::size_t stride, std::size_t count,
               std::size_t head_dim, float* block);
  // Merges the state of the next span into that of the spans before.
  void (*merge)(std::size_t rows, std::size_t head_dim, const AttentionState& state,
                const AttentionState& next);
  // Writes values / total to out[row] of [head_dim].
  void (*finish)(std::size_t rows, std::size_t head_dim, const AttentionState& state, float* const* out);
};

const AttentionKernels& attention_kernels(Features features);

}  // namespace internvl
