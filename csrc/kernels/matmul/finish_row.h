// What becomes of a row of finished sums, in vectors: the steps and their order are those of finished().
// Included by kernel sources only.
#pragma once

#include "kernels/activation/gelu.h"
#include "kernels/matmul/epilogue.h"
#include "kernels/vector/float/vector.h"
#include "kernels/vector/prefetch.h"

namespace internvl::INTERNVL_ISA {

// Rows ahead of the one that is finished, of which the same columns are asked for: rows lie whole pages
// apart, where the processor does not look ahead by itself.
constexpr std::size_t finish_ahead = 8;

// Columns [begin, begin + n) of a row: row[begin + c] (+)= epilogue(sums[c] * scales[c] (+ bias[begin + c])).
// `scales` and `bias` may be null.
inline void finish_row(const float* sums, const float* scales, const float* bias, const Epilogue& epilogue,
                       bool accumulate, std::size_t begin, std::size_t n, float* row) {
  const auto columns = [begin](const float* all) { return all == nullptr ? nullptr : all + begin; };
  const float* const offset = columns(bias);
  const float* const layer_scale = columns(epilogue.layer_scale);
  float* const y = row + begin;
  const auto value = [&](auto at) {
    FloatVector v = at(sums);
    if (scales != nullptr) v = v * at(scales);
    if (offset != nullptr) v = v + at(offset);
    if (epilogue.gelu) v = gelu(v);
    if (layer_scale != nullptr) v = v * at(layer_scale);
    if (accumulate) v = v + at(y);
    return v;
  };
  std::size_t c = 0;
  for (; c + lanes <= n; c += lanes) store(y + c, value([c](const float* p) { return load(p + c); }));
  if (c < n) store(y + c, value([c, n](const float* p) { return load(p + c, n - c); }), n - c);
}

}  // namespace internvl::INTERNVL_ISA
