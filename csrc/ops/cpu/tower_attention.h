// Attention of a vision tower: every token of a tile sees all tokens of that tile.
#pragma once

#include <cstddef>

#include "kernels/attention/attention.h"
#include "ops/cpu/attention_output.h"
#include "ops/ops.h"
#include "runtime/aligned_array.h"
#include "runtime/features.h"
#include "runtime/thread_team.h"

namespace internvl {

// What a tile gets depends on that tile alone, bit for bit.
class TowerAttention {
 public:
  // Throws BundleError if there are no kernels for heads of that size, DeviceError if there is no memory.
  TowerAttention(const TowerShape& shape, ThreadTeam& team, Features features);

  // qkv [tiles * tokens, 3 * heads * head_dim] to out [tiles * tokens, heads * head_dim]; with queries, keys
  // and values rounded to bf16 where `weights` around it suit that.
  void attend(const float* qkv, std::size_t tiles, DataType weights, const AttentionOutput& out);

 private:
  // Some rows of one head of one tile.
  struct HeadRows {
    const float* queries;  // the tile's first, at a distance of stride(); keys and values beside it
    const AttentionOutput& out;
    std::size_t out_begin;    // where the tile's first row goes
    std::size_t first, last;  // of the tile's rows
  };

  // `memory`: keys and values of one head of one tile, in blocks.
  void attend(const BlockKernels& kernels, const HeadRows& head, float* memory) const;
  std::size_t hidden() const { return shape_.heads * shape_.head_dim; }
  std::size_t stride() const { return 3 * hidden(); }

  TowerShape shape_;
  ThreadTeam& team_;
  Features features_;
  std::size_t block_elements_;  // floats of a block, in whole cache lines
  AlignedArray<float> heads_;   // [threads, blocks, block_elements_]; not touched before it is used
};

}  // namespace internvl
