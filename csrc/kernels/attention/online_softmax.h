// The online softmax: from a block's scores to weights of its values, row by row. Included by kernel sources
// only.
//
// Whatever rows are taken together, a lane of a row goes through the same operations: neighbours only decide
// how many further lanes, with weight 0, a row has.
#pragma once

#include "kernels/attention/attention.h"
#include "kernels/vector/float/wide.h"

namespace internvl::INTERNVL_ISA {

constexpr float infinity = __builtin_inff();
constexpr float log2_e = 1.44269504F;
constexpr std::size_t block_vectors = cache_block / wide_lanes;

inline std::size_t smaller(std::size_t a, std::size_t b) { return a < b ? a : b; }
inline std::size_t vectors_of(std::size_t keys) { return (keys + wide_lanes - 1) / wide_lanes; }

// corrections[i] = 2^(from[i] - to[i]); 0 where `from` is -infinity, whatever `to` is.
inline void corrections_of(const float* from, const float* to, std::size_t count, float* corrections) {
  for (std::size_t i = 0; i < count; i += wide_lanes) {
    const WideVector v = power_of_two<6>(load_wide(from + i, count - i) - load_wide(to + i, count - i));
    store(corrections + i, v, count - i);
  }
  for (std::size_t i = 0; i < count; ++i) {
    if (from[i] == -infinity) corrections[i] = 0.0F;
  }
}

// The greatest of a row's scores [cache_block], of which `seen` count. The others, which may be anything,
// become -infinity, in the vectors that hold the first `most`.
inline float greatest_of(float* scores, std::size_t seen, std::size_t most) {
  if (seen == cache_block) {
    WideVector greatest = load_wide(scores);
    for (std::size_t i = 1; i < block_vectors; ++i) {
      greatest = max(greatest, load_wide(scores + i * wide_lanes));
    }
    return reduce_max(greatest);
  }
  const WideVector none = broadcast_wide(-infinity);
  WideVector greatest = none;
  for (std::size_t i = 0; i < vectors_of(most); ++i) {
    float* const place = scores + i * wide_lanes;
    const std::size_t first = i * wide_lanes;
    const WideVector v = select_first(seen > first ? seen - first : 0, load_wide(place), none);
    store(place, v);
    greatest = max(greatest, v);
  }
  return reduce_max(greatest);
}

// weights = 2^(factor * scores - greatest) in the vectors that hold the first `most` keys, times `scales`
// where they are not null. Adds what they sum to without scales to totals, lane by lane.
template <int Degree, class Weight>
[[gnu::always_inline]] inline void weigh(const float* scores, std::size_t seen, std::size_t vectors,
                                         float factor, float greatest, const float* scales, WideVector& total,
                                         Weight* weights) {
  const WideVector scale = broadcast_wide(factor);
  const WideVector base = broadcast_wide(-greatest);
  for (std::size_t i = 0; i < vectors; ++i) {
    const std::size_t first = i * wide_lanes;
    WideVector p = power_of_two<Degree>(fma(load_wide(scores + first), scale, base));
    total = total + p;
    if (scales != nullptr) {
      p = p * load_wide(scales + first);
      // The scale of a key that is not seen may be anything.
      if (seen < cache_block) {
        p = select_first(seen > first ? seen - first : 0, p, broadcast_wide(0.0F));
      }
    }
    store_weights(weights + first, p);
  }
}

}  // namespace internvl::INTERNVL_ISA
