#include "kernels/matmul/dot_tile.h"
#include "kernels/matmul/finish_row.h"
#include "kernels/matmul/gemm.h"
#include "kernels/matmul/weight_rows.h"

namespace internvl::INTERNVL_ISA {
namespace {

static_assert(panel_depth == sum_block, "a panel spans one block of every sum");

template <class T>
void unpack_row(PlainRow<T> row, std::size_t depth, float* out) {
  std::size_t k = 0;
  for (; k + lanes <= depth; k += lanes) store(out + k, row.template at<0>(k));
  if (k < depth) store(out + k, row.tail(k, depth - k), depth - k);
}

void unpack(const WeightMatrix& w, std::size_t n, std::size_t rows, std::size_t k, std::size_t depth,
            float* panel) {
  with_rows_of(w, [&](const auto& source) {
    for (std::size_t i = 0; i < rows; ++i) {
      unpack_row(source.row(n + i).from(k), depth, panel + i * panel_depth);
    }
  });
}

template <int Rows, int Columns>
void multiply_tile(const float* x, std::size_t x_stride, const float* panel, std::size_t depth,
                   bool accumulate, float* sums) {
  PlainRow<float> rows[Columns];
  for (int c = 0; c < Columns; ++c) rows[c] = {panel + static_cast<std::size_t>(c) * panel_depth};
  DotTile<Rows, Columns> tile;
  tile.run(x, x_stride, rows, depth);
  float block[Rows * Columns];
  tile.reduce(block);
  for (int r = 0; r < Rows; ++r) {
    float* out = sums + static_cast<std::size_t>(r) * panel_rows;
    for (int c = 0; c < Columns; ++c) out[c] = (accumulate ? out[c] : 0.0F) + block[r * Columns + c];
  }
}

template <int Rows>
void multiply_rows(const float* x, std::size_t x_stride, const float* panel, std::size_t n, std::size_t depth,
                   bool accumulate, float* sums) {
  std::size_t c = 0;
  for (; c + tile_columns <= n; c += tile_columns) {
    multiply_tile<Rows, tile_columns>(x, x_stride, panel + c * panel_depth, depth, accumulate, sums + c);
  }
  for (; c < n; ++c)
    multiply_tile<Rows, 1>(x, x_stride, panel + c * panel_depth, depth, accumulate, sums + c);
}

void multiply(const float* x, std::size_t x_stride, std::size_t m, const float* panel, std::size_t n,
              std::size_t depth, bool accumulate, float* sums) {
  std::size_t r = 0;
  for (; r + tile_rows <= m; r += tile_rows) {
    multiply_rows<tile_rows>(x + r * x_stride, x_stride, panel, n, depth, accumulate, sums + r * panel_rows);
  }
  for (; r < m; ++r) {
    multiply_rows<1>(x + r * x_stride, x_stride, panel, n, depth, accumulate, sums + r * panel_rows);
  }
}

void finish(const float* sums, std::size_t sums_stride, std::size_t m, std::size_t begin, std::size_t n,
            const LinearRows& job, std::size_t first, const Epilogue& epilogue) {
  for (std::size_t r = 0; r < m; ++r) {
    finish_row(sums + r * sums_stride, nullptr, job, epilogue, first + r, begin, n);
  }
}

}  // namespace

const GemmKernels& gemm_kernels() {
  static constexpr GemmKernels kernels{unpack, multiply, finish};
  return kernels;
}

}  // namespace internvl::INTERNVL_ISA
