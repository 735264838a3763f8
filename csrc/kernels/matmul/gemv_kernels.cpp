#include "kernels/matmul/dot_tile.h"
#include "kernels/matmul/gemv.h"
#include "kernels/matmul/weight_rows.h"

namespace internvl::INTERNVL_ISA {
namespace {

// Rows of W at once: enough independent sums to hide the latency of an fma.
template <int Rows>
constexpr int columns_at_once = Rows <= 2                  ? 4
                                : 12 / Rows > tile_columns ? tile_columns
                                                           : 12 / Rows;

// `count` <= Columns rows of W from the n-th on. Where they are fewer, the last one stands for the others
// too: that takes less code than a loop for every number of rows.
template <int Rows, int Columns, class Source>
void multiply_columns(const LinearRows& job, const Source& source, std::size_t n, std::size_t count) {
  using Row = Source::Row;
  Row rows[Columns];
  for (std::size_t c = 0; c < Columns; ++c) rows[c] = source.row(n + (c < count ? c : count - 1));
  const std::size_t row_bytes = source.columns / unrolled * Row::step_bytes;
  // On long rows, and where each vector is a cache line, the processor's own prefetchers do better alone.
  const bool ask = Row::step_bytes <= 128 && Columns * row_bytes <= 24576;
  const char* const next = rows[0].address() + Columns * row_bytes;
  float totals[Rows * Columns] = {};
  for (std::size_t k = 0; k < source.columns; k += sum_block) {
    const std::size_t depth = source.columns - k < sum_block ? source.columns - k : sum_block;
    Row block[Columns];
    for (int c = 0; c < Columns; ++c) block[c] = rows[c].from(k);
    DotTile<Rows, Columns> tile;
    tile.run(job.x + k, job.x_stride, block, depth,
             ask ? next + Columns * (k / unrolled * Row::step_bytes) : nullptr);
    float sums[Rows * Columns];
    tile.reduce(sums);
    for (int i = 0; i < Rows * Columns; ++i) totals[i] += sums[i];
  }
  for (int r = 0; r < Rows; ++r) {
    float* y = job.y + static_cast<std::size_t>(r) * job.y_stride + n;
    for (std::size_t c = 0; c < count; ++c) {
      float value = totals[static_cast<std::size_t>(r) * Columns + c];
      if (job.bias != nullptr) value += job.bias[n + c];
      y[c] = job.accumulate ? value + y[c] : value;
    }
  }
}

template <int Rows, class Source>
void multiply_rows(const LinearRows& job, const Source& source, std::size_t begin, std::size_t end) {
  constexpr int columns = columns_at_once<Rows>;
  for (std::size_t n = begin; n < end; n += columns) {
    multiply_columns<Rows, columns>(job, source, n, end - n < columns ? end - n : columns);
  }
}

void multiply(const LinearRows& job, const WeightMatrix& w, std::size_t begin, std::size_t end) {
  with_rows_of(w, [&](const auto& source) {
    switch (job.rows) {
      case 1:
        return multiply_rows<1>(job, source, begin, end);
      case 2:
        return multiply_rows<2>(job, source, begin, end);
      case 3:
        return multiply_rows<3>(job, source, begin, end);
      default:
        return multiply_rows<4>(job, source, begin, end);
    }
  });
}

}  // namespace

const GemvKernels& gemv_kernels() {
  static constexpr GemvKernels kernels{multiply};
  return kernels;
}

}  // namespace internvl::INTERNVL_ISA
