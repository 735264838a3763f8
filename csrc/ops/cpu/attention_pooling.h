// Attention pooling: one query for each tile sees the tile's patches.
#pragma once

#include <cstddef>

#include "ops/ops.h"
#include "runtime/aligned_array.h"
#include "runtime/features.h"
#include "runtime/thread_team.h"

namespace internvl {

// Everything is fp32. What a tile gets depends on that tile alone, bit for bit.
class AttentionPooling {
 public:
  // Throws BundleError if there are no kernels for heads of that size, DeviceError if there is no memory.
  AttentionPooling(const PoolingShape& shape, ThreadTeam& team, Features features);

  // queries [tiles, heads * head_dim] and keys_values [tiles * tokens, 2 * heads * head_dim] to
  // out [tiles, heads * head_dim].
  void pool(const float* queries, const float* keys_values, std::size_t tiles, float* out);

 private:
  // One head of one tile.
  struct Head {
    const float* query;
    const float* keys;  // of the first patch, at a distance of 2 * hidden(); values alike
    const float* values;
    float* out;
  };

  void pool(const Head& head, float* memory) const;
  std::size_t hidden() const { return shape_.heads * shape_.head_dim; }

  PoolingShape shape_;
  ThreadTeam& team_;
  Features features_;
  std::size_t width_;            // of a head: the kernels take multiples of 8
  std::size_t block_elements_;   // floats of a block of keys and values, in whole cache lines
  std::size_t thread_elements_;  // floats that a thread computes in
  AlignedArray<float> memory_;   // [threads, thread_elements_]; not touched before it is used
};

}  // namespace internvl
