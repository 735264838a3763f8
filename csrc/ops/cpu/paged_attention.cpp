#include "ops/cpu/paged_attention.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/norm/norm.h"
#include "kernels/rope/rope.h"
#include "runtime/rounding.h"

namespace internvl {
namespace {

constexpr std::size_t span_keys = span_blocks * cache_block;

// Floats of the state of one tile of attention.
constexpr std::size_t state_elements(std::size_t head_dim) {
  return attention_rows * (2 + value_width(head_dim));
}
// Tokens whose keys and values are stored together: those of a part of a block.
constexpr std::size_t append_grain = 16;
static_assert(cache_block % append_grain == 0);

AttentionState state_at(float* memory) {
  return {memory, memory + attention_rows, memory + 2 * attention_rows};
}

}  // namespace

void PagedAttention::begin_step(std::span<const Run> runs, std::span<const float> cosines,
                                std::span<const float> sines) {
  runs_.assign(runs.begin(), runs.end());
  cosines_ = cosines;
  sines_ = sines;
  planned_.reset();
  appends_.clear();
  for (std::size_t i = 0; i < runs_.size(); ++i) {
    for (std::size_t offset = 0; offset < runs_[i].count;) {
      const std::size_t room = append_grain - (runs_[i].position + offset) % append_grain;
      const std::size_t count = std::min(room, runs_[i].count - offset);
      appends_.push_back({i, offset, count});
      offset += count;
    }
  }
}

void PagedAttention::rotate_and_append(float* qkv, std::size_t layer, const float* q_norm,
                                       const float* k_norm, float eps) {
  const NormKernels& norms = norm_kernels(features_);
  const RopeKernels& rope = rope_kernels(features_);
  const std::size_t d = shape_.head_dim;
  const std::size_t rotated = shape_.heads + shape_.kv_heads;  // queries and keys lie side by side
  team_.for_each_range(appends_.size(), 1, [&](std::size_t begin, std::size_t) {
    const Append& append = appends_[begin];
    const Run& run = runs_[append.run];
    const std::size_t first = run.row + append.offset;
    for (std::size_t row = first; row < first + append.count; ++row) {
      float* heads = qkv + row * qkv_columns();
      for (std::size_t head = 0; head < rotated; ++head) {
        const float* weight = head < shape_.heads ? q_norm : k_norm;
        if (weight != nullptr) norms.rms_norm(heads + head * d, weight, d, eps, heads + head * d);
      }
      rope.rotate(heads, rotated, d, &cosines_[row * (d / 2)], &sines_[row * (d / 2)]);
    }
    const std::size_t position = run.position + append.offset;
    const float* keys = qkv + first * qkv_columns() + shape_.heads * d;
    for (std::size_t head = 0; head < shape_.kv_heads; ++head) {
      storage_.write(run.blocks[position / cache_block], position % cache_block, layer, head,
                     {keys + head * d, keys + (shape_.kv_heads + head) * d, qkv_columns(), append.count, d});
    }
  });
}

void PagedAttention::plan(std::size_t first) {
  if (planned_ == first) return;
  const std::size_t group = shape_.heads / shape_.kv_heads;
  const std::size_t heads_at_once = std::min(group, attention_rows);
  const std::size_t positions_at_once = attention_rows / heads_at_once;
  tiles_.clear();
  spans_ = 0;
  for (std::size_t i = 0; i < runs_.size(); ++i) {
    const Run& run = runs_[i];
    const std::size_t skip = first > run.row ? std::min(first - run.row, run.count) : 0;
    for (std::size_t offset = skip; offset < run.count; offset += positions_at_once) {
      const std::size_t positions = std::min(positions_at_once, run.count - offset);
      const std::size_t seen = run.position + offset + positions;
      for (std::size_t kv_head = 0; kv_head < shape_.kv_heads; ++kv_head) {
        for (std::size_t head = 0; head < group; head += heads_at_once) {
          tiles_.push_back({i, offset, positions, kv_head * group + head,
                            std::min(heads_at_once, group - head), divide_up(seen, span_keys)});
          spans_ += tiles_.back().spans;
        }
      }
    }
  }
  planned_ = first;
}

void PagedAttention::attend_span(const float* qkv, std::size_t layer, const Tile& tile, std::size_t span,
                                 const AttentionState& state) const {
  const Run& run = runs_[tile.run];
  const std::size_t kv_head = tile.head / (shape_.heads / shape_.kv_heads);
  std::array<const float*, attention_rows> queries{};
  std::array<std::size_t, attention_rows> visible{};
  std::size_t rows = 0;
  for (std::size_t p = 0; p < tile.positions; ++p) {
    const float* row = qkv + (run.row + tile.offset + p) * qkv_columns();
    for (std::size_t h = 0; h < tile.heads; ++h) {
      queries[rows] = row + (tile.head + h) * shape_.head_dim;
      visible[rows++] = run.position + tile.offset + p + 1;
    }
  }
  std::array<const std::byte*, span_blocks> blocks{};
  const std::size_t first = span * span_blocks;
  const std::size_t count = std::min(span_blocks, run.blocks.size() - first);
  for (std::size_t b = 0; b < count; ++b) blocks[b] = storage_.head(run.blocks[first + b], layer, kv_head);
  const QueryRows job{rows, queries.data(), visible.data(), shape_.head_dim,
                      1.0F / std::sqrt(static_cast<float>(shape_.head_dim))};
  storage_.kernels().attend(job, blocks.data(), first * cache_block, count, state);
}

void PagedAttention::finish_tile(const Tile& tile, const AttentionState& state,
                                 const AttentionOutput& out) const {
  std::array<std::size_t, attention_rows> begins{};
  std::size_t count = 0;
  for (std::size_t p = 0; p < tile.positions; ++p) {
    const std::size_t row = runs_[tile.run].row + tile.offset + p;
    for (std::size_t h = 0; h < tile.heads; ++h) {
      begins[count++] = row * out.stride + (tile.head + h) * shape_.head_dim;
    }
  }
  out.finish({begins.data(), count}, shape_.head_dim, features_, [&](float* const* rows) {
    attention_kernels(features_).finish(count, shape_.head_dim, state, rows);
  });
}

void PagedAttention::attend(const float* qkv, std::size_t layer, std::size_t first,
                            const AttentionOutput& out) {
  plan(first);
  const AttentionKernels& kernels = attention_kernels(features_);
  const std::size_t elements = state_elements(shape_.head_dim);
  const auto threads = static_cast<std::size_t>(team_.size());
  if (spans_ == tiles_.size() || tiles_.size() >= 4 * threads) {
    team_.for_each_range(tiles_.size(), 1, [&](std::size_t begin, std::size_t) {
      const Tile& tile = tiles_[begin];
      float memory[2 * state_elements(most_head_dim)];
      const AttentionState state = state_at(memory);
      const AttentionState next = state_at(memory + elements);
      attend_span(qkv, layer, tile, 0, state);
      for (std::size_t span = 1; span < tile.spans; ++span) {
        attend_span(qkv, layer, tile, span, next);
        kernels.merge(tile.positions * tile.heads, shape_.head_dim, state, next);
      }
      finish_tile(tile, state, out);
    });
    return;
  }
  // Few queries over a long cache: the spans of a tile are work for several threads.
  span_states_.resize(std::max(span_states_.size(), spans_ * elements));
  team_.for_each_range(spans_, 1, [&](std::size_t begin, std::size_t) {
    std::size_t span = begin;
    std::size_t tile = 0;
    while (span >= tiles_[tile].spans) span -= tiles_[tile++].spans;
    attend_span(qkv, layer, tiles_[tile], span, state_at(&span_states_[begin * elements]));
  });
  float* states = span_states_.data();
  for (const Tile& tile : tiles_) {
    for (std::size_t span = 1; span < tile.spans; ++span) {
      kernels.merge(tile.positions * tile.heads, shape_.head_dim, state_at(states),
                    state_at(states + span * elements));
    }
    finish_tile(tile, state_at(states), out);
    states += tile.spans * elements;
  }
}

}  // namespace internvl
