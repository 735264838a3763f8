#include "ops/cpu/attention_pooling.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "kernels/attention/attention.h"
#include "runtime/error.h"
#include "runtime/rounding.h"

namespace internvl {
namespace {

constexpr std::size_t line_floats = 16;

PoolingShape checked(const PoolingShape& shape) {
  if (shape.head_dim == 0 || shape.head_dim > most_head_dim) {
    throw BundleError("the resolution router's head_dim is " + std::to_string(shape.head_dim) +
                          "; the native engine takes up to " + std::to_string(most_head_dim) + ".",
                      ErrorCode::engine_cannot);
  }
  return shape;
}

// The memory of one head, one part after the other.
class Parts {
 public:
  explicit Parts(float* memory) : next_(memory) {}

  float* take(std::size_t elements) {
    float* const part = next_;
    next_ += round_up(elements, line_floats);
    return part;
  }

 private:
  float* next_;
};

AttentionState take_state(Parts& parts, std::size_t head_dim) {
  return {parts.take(1), parts.take(1), parts.take(value_width(head_dim))};
}

}  // namespace

AttentionPooling::AttentionPooling(const PoolingShape& shape, ThreadTeam& team, Features features)
    : shape_(checked(shape)),
      team_(team),
      features_(features),
      width_(round_up(shape.head_dim, 8)),
      block_elements_(round_up(attention_block_elements(width_), line_floats)),
      // The block, the rows that it is written from, the query and the result, and two states.
      thread_elements_(block_elements_ + 2 * cache_block * width_ + 2 * round_up(width_, line_floats) +
                       2 * (2 * line_floats + value_width(width_))),
      memory_(static_cast<std::size_t>(team.size()) * thread_elements_) {}

void AttentionPooling::pool(const float* queries, const float* keys_values, std::size_t tiles, float* out) {
  const std::size_t d = shape_.head_dim;
  team_.share(tiles * shape_.heads, 1, [&](int thread, std::size_t piece, std::size_t) {
    const std::size_t tile = piece / shape_.heads;
    const std::size_t place = piece % shape_.heads * d;
    const float* const keys = keys_values + (tile * shape_.tokens + 1) * 2 * hidden() + place;
    pool({queries + tile * hidden() + place, keys, keys + hidden(), out + tile * hidden() + place},
         memory_.data() + static_cast<std::size_t>(thread) * thread_elements_);
  });
}

void AttentionPooling::pool(const Head& head, float* memory) const {
  const AttentionKernels& kernels = attention_kernels(features_);
  const std::size_t d = shape_.head_dim;
  const std::size_t patches = shape_.tokens - 1;
  // A head is filled up with zeros, not with its neighbour, of which nothing may depend.
  const auto copy = [&](const float* from, float* to) {
    std::copy_n(from, d, to);
    std::fill_n(to + d, width_ - d, 0.0F);
  };
  Parts parts(memory);
  auto* const block = reinterpret_cast<std::byte*>(parts.take(block_elements_));
  float* const rows = parts.take(2 * cache_block * width_);
  float* const query = parts.take(width_);
  float* const result = parts.take(width_);
  const AttentionState state = take_state(parts, width_);
  const AttentionState next = take_state(parts, width_);
  copy(head.query, query);
  const QueryRows job{1, &query, &patches, width_, 1.0F / std::sqrt(static_cast<float>(d))};
  for (std::size_t first = 0; first < patches; first += cache_block) {
    const std::size_t count = std::min(cache_block, patches - first);
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t from = (first + i) * 2 * hidden();
      copy(head.keys + from, rows + 2 * i * width_);
      copy(head.values + from, rows + (2 * i + 1) * width_);
    }
    kernels.float32.write({rows, rows + width_, 2 * width_, count, width_}, 0, block);
    const std::byte* const blocks = block;
    kernels.float32.attend(job, &blocks, first, 1, first == 0 ? state : next);
    if (first > 0) kernels.merge(1, width_, state, next);
  }
  kernels.finish(1, width_, state, &result);
  std::copy_n(result, d, head.out);
}

}  // namespace internvl
