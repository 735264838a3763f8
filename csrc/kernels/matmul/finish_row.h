// What becomes of a row of finished sums, in vectors: the steps and their order are those of finished().
// Included by kernel sources only.
#pragma once

#include "kernels/activation/gelu.h"
#include "kernels/matmul/epilogue.h"
#include "kernels/matmul/linear_rows.h"
#include "kernels/vector/bfloat16/rounding.h"
#include "kernels/vector/float/vector.h"
#include "kernels/vector/prefetch.h"

namespace internvl::INTERNVL_ISA {

// Rows ahead of the one that is finished, of which the same columns are asked for: rows lie whole pages
// apart, where the processor does not look ahead by itself.
constexpr std::size_t finish_ahead = 8;

inline void store_finished(float* p, FloatVector v) { store(p, v); }
inline void store_finished(float* p, FloatVector v, std::size_t n) { store(p, v, n); }
inline void store_finished(BFloat16* p, FloatVector v) { store_rounded(p, v); }
inline void store_finished(BFloat16* p, FloatVector v, std::size_t n) { store_rounded(p, v, n); }

// Columns [begin, begin + n) of a row: row[begin + c] (+)= epilogue(sums[c] * scales[c] (+ bias[begin + c])).
// `scales` and `bias` may be null.
template <class T>
inline void finish_row(const float* sums, const float* scales, const float* bias, const Epilogue& epilogue,
                       bool accumulate, std::size_t begin, std::size_t n, T* row) {
  const auto columns = [begin](const float* all) { return all == nullptr ? nullptr : all + begin; };
  const float* const offset = columns(bias);
  const float* const layer_scale = columns(epilogue.layer_scale);
  T* const y = row + begin;
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
  for (; c + lanes <= n; c += lanes) store_finished(y + c, value([c](const auto* p) { return load(p + c); }));
  if (c < n) store_finished(y + c, value([c, n](const auto* p) { return load(p + c, n - c); }), n - c);
}

// The same for row `r` of the job, wherever it goes.
inline void finish_row(const float* sums, const float* scales, const LinearRows& job,
                       const Epilogue& epilogue, std::size_t r, std::size_t begin, std::size_t n) {
  const auto finish = [&](auto* y) {
    const auto* const ahead = y + (r + finish_ahead) * job.y_stride + begin;
    prefetch_for_writing(reinterpret_cast<const char*>(ahead), n * sizeof(*y));
    finish_row(sums, scales, job.bias, epilogue, job.accumulate, begin, n, y + r * job.y_stride);
  };
  if (job.rounded_y != nullptr) {
    finish(job.rounded_y);
  } else {
    finish(job.y);
  }
}

}  // namespace internvl::INTERNVL_ISA
