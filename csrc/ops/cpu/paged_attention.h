// Causal attention with grouped queries over the paged KV cache, for prefill and decode alike.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "kernels/attention/attention.h"
#include "ops/cpu/attention_output.h"
#include "ops/cpu/kv_storage.h"
#include "ops/ops.h"
#include "runtime/features.h"
#include "runtime/thread_team.h"

namespace internvl {

// What a query gets depends on it and on the keys and values of its sequence alone, bit for bit.
class PagedAttention {
 public:
  PagedAttention(const CacheShape& shape, KvStorage& storage, ThreadTeam& team, Features features)
      : shape_(shape), storage_(storage), team_(team), features_(features) {}

  // As Operations::begin_step(). Block tables have to stay until the step's last operation.
  void begin_step(std::span<const Run> runs, std::span<const float> cosines, std::span<const float> sines);
  // qkv [rows, (heads + 2 kv_heads) * head_dim]. Norm weights [head_dim] are null without.
  void rotate_and_append(float* qkv, std::size_t layer, const float* q_norm, const float* k_norm, float eps);
  // out [rows, heads * head_dim]: the step's rows from `first` on.
  void attend(const float* qkv, std::size_t layer, std::size_t first, const AttentionOutput& out);

 private:
  // Tokens whose keys and values one thread stores: neighbours in one block.
  struct Append {
    std::size_t run;
    std::size_t offset;  // of the first token, in the run
    std::size_t count;
  };

  // Query rows that one call of the attention kernel takes: heads of one group at neighbouring positions.
  struct Tile {
    std::size_t run;
    std::size_t offset;  // of the first position, in the run
    std::size_t positions;
    std::size_t head;  // the first
    std::size_t heads;
    std::size_t spans;  // of the cache, that the last position sees
  };

  // Cuts the step's rows from `first` on into tiles.
  void plan(std::size_t first);
  void attend_span(const float* qkv, std::size_t layer, const Tile& tile, std::size_t span,
                   const AttentionState& state) const;
  void finish_tile(const Tile& tile, const AttentionState& state, const AttentionOutput& out) const;
  std::size_t qkv_columns() const { return (shape_.heads + 2 * shape_.kv_heads) * shape_.head_dim; }

  CacheShape shape_;
  KvStorage& storage_;
  ThreadTeam& team_;
  Features features_;
  // Of the step.
  std::vector<Run> runs_;
  std::span<const float> cosines_;  // [rows, head_dim / 2]
  std::span<const float> sines_;
  std::vector<Append> appends_;
  std::optional<std::size_t> planned_;  // the `first` that tiles_ are for
  std::vector<Tile> tiles_;
  std::size_t spans_ = 0;           // of all tiles
  std::vector<float> span_states_;  // of spans that are computed apart
};

}  // namespace internvl
