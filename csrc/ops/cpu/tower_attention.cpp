#include "ops/cpu/tower_attention.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <vector>

#include "kernels/attention/attention.h"
#include "ops/cpu/head_dim.h"
#include "runtime/rounding.h"

namespace internvl {
namespace {

// Pieces of attention for each thread: enough that threads end together.
constexpr std::size_t pieces_per_thread = 4;

TowerShape checked(const TowerShape& shape) {
  require_head_dim(shape.head_dim, "vision tower");
  return shape;
}

std::size_t blocks_of(std::size_t tokens) { return divide_up(tokens, cache_block); }

}  // namespace

TowerAttention::TowerAttention(const TowerShape& shape, ThreadTeam& team, Features features)
    : shape_(checked(shape)),
      team_(team),
      features_(features),
      block_elements_(round_up(attention_block_elements(shape.head_dim), 16)),
      heads_(static_cast<std::size_t>(team.size()) * blocks_of(shape.tokens) * block_elements_) {}

void TowerAttention::attend(const float* qkv, std::size_t tiles, DataType weights,
                            const AttentionOutput& out) {
  // Blocks of bf16 take half the memory of those of fp32.
  const AttentionKernels& kernels = attention_kernels(features_);
  const BlockKernels& blocks = attends_in_bfloat16(weights, features_) ? kernels.bfloat16 : kernels.float32;
  const std::size_t d = shape_.head_dim;
  const std::size_t tokens = shape_.tokens;
  // A piece is some rows of one head of one tile. Whoever takes it lays the head's keys and values out for
  // itself, so that they are in its cache: a hundredth of the work of a whole head.
  const std::size_t heads = std::max(tiles * shape_.heads, std::size_t{1});
  const auto threads = static_cast<std::size_t>(team_.size());
  const std::size_t groups = divide_up(tokens, attention_rows);
  const std::size_t parts = std::clamp(divide_up(pieces_per_thread * threads, heads), std::size_t{1}, groups);
  const std::size_t part_rows = divide_up(groups, parts) * attention_rows;
  team_.share(heads * parts, 1, [&](int thread, std::size_t piece, std::size_t) {
    const std::size_t first = piece % parts * part_rows;
    if (first >= tokens) return;
    const std::size_t tile = piece / parts / shape_.heads;
    const std::size_t head = piece / parts % shape_.heads;
    attend(blocks,
           {qkv + tile * tokens * stride() + head * d, out, tile * tokens * out.stride + head * d, first,
            std::min(first + part_rows, tokens)},
           heads_.data() + static_cast<std::size_t>(thread) * blocks_of(tokens) * block_elements_);
  });
}

void TowerAttention::attend(const BlockKernels& kernels, const HeadRows& head, float* memory) const {
  const std::size_t d = shape_.head_dim;
  const std::size_t tokens = shape_.tokens;
  const float* keys = head.queries + hidden();
  const float* values = keys + hidden();
  std::vector<const std::byte*> blocks(blocks_of(tokens));
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    const std::size_t key = b * cache_block;
    auto* place = reinterpret_cast<std::byte*>(memory + b * block_elements_);
    kernels.write(
        {keys + key * stride(), values + key * stride(), stride(), std::min(cache_block, tokens - key), d}, 0,
        place);
    blocks[b] = place;
  }
  std::vector<float> state_memory(attention_rows * (2 + value_width(d)));
  const AttentionState state{state_memory.data(), &state_memory[attention_rows],
                             &state_memory[2 * attention_rows]};
  std::array<std::size_t, attention_rows> visible{};
  visible.fill(tokens);
  for (std::size_t row = head.first; row < head.last; row += attention_rows) {
    const std::size_t rows = std::min(attention_rows, head.last - row);
    std::array<const float*, attention_rows> queries{};
    std::array<std::size_t, attention_rows> begins{};
    for (std::size_t r = 0; r < rows; ++r) {
      queries[r] = head.queries + (row + r) * stride();
      begins[r] = head.out_begin + (row + r) * head.out.stride;
    }
    const QueryRows job{rows, queries.data(), visible.data(), d, 1.0F / std::sqrt(static_cast<float>(d))};
    kernels.attend(job, blocks.data(), 0, blocks.size(), state);
    head.out.finish({begins.data(), rows}, d, features_,
                    [&](float* const* out) { attention_kernels(features_).finish(rows, d, state, out); });
  }
}

}  // namespace internvl
