#include "ops/cpu/linear.h"

#include <algorithm>

#include "kernels/matmul/bfloat16_gemm.h"
#include "kernels/matmul/gemm.h"
#include "runtime/rounding.h"

namespace internvl {
namespace {

// Rows of x whose sums a thread has memory for, in panels of panel_rows.
std::size_t sum_rows(std::size_t most_rows) {
  return std::min(most_bfloat16_columns / panel_rows * rounded_row_memory(most_rows),
                  std::max(gemm_rows, bfloat16_gemm_rows));
}

// Bytes of weights that a thread takes at a time: large enough that taking costs nothing, small enough that
// threads end together.
constexpr std::size_t gemv_bytes = 32768;

void multiply_few(const LinearRows& job, const WeightMatrix& w, ThreadTeam& team, Features features) {
  const GemvKernels& kernels = gemv_kernels(features);
  const std::size_t row_bytes = std::max<std::size_t>(w.columns * (w.type == DataType::float32 ? 4 : 1), 1);
  const std::size_t grain = std::max<std::size_t>(gemv_bytes / row_bytes / 12, 1) * 12;
  team.for_each_range(w.rows, grain,
                      [&](std::size_t begin, std::size_t end) { kernels.multiply(job, w, begin, end); });
}

// How many rows of W and of x are taken at a time, and the distance of rows of sums.
struct PanelShape {
  std::size_t width;
  std::size_t rows;
  std::size_t sums_stride;
};

// multiply(panel, begin, n, first, m, k, depth, sums) computes the sums [m, n] of elements [k, k + depth), or
// adds them where k is not 0. All panels meet the same rows of x, which stay in the second cache, before they
// meet the next ones.
template <class Multiply>
void multiply_panels(const LinearRows& job, const WeightMatrix& w, ThreadTeam& team,
                     LinearWorkspace& workspace, Features features, const Epilogue& epilogue,
                     const PanelShape& shape, Multiply multiply) {
  const GemmKernels& kernels = gemm_kernels(features);
  const std::size_t piece = rows_of_a_piece(job.rows, shape.rows);
  const std::size_t panels = divide_up(w.rows, shape.width);
  const std::size_t pieces = divide_up(job.rows, piece);
  // A thread's panels lie behind each other, so that its next weights are known.
  team.share(panels * pieces, 1, [&](int thread, std::size_t share, std::size_t) {
    float* panel = workspace.panel(thread);
    float* sums = workspace.sums(thread);
    const std::size_t begin = share % panels * shape.width;
    const std::size_t first = share / panels * piece;
    const std::size_t n = std::min(shape.width, w.rows - begin);
    const std::size_t m = std::min(piece, job.rows - first);
    for (std::size_t k = 0; k < w.columns; k += panel_depth) {
      const std::size_t depth = std::min(panel_depth, w.columns - k);
      multiply(panel, begin, n, first, m, k, depth, sums);
    }
    kernels.finish(sums, shape.sums_stride, m, begin, n, job, first, epilogue);
  });
}

void multiply_many(const LinearRows& job, const WeightMatrix& w, ThreadTeam& team, LinearWorkspace& workspace,
                   Features features, const Epilogue& epilogue) {
  const GemmKernels& kernels = gemm_kernels(features);
  multiply_panels(job, w, team, workspace, features, epilogue, {panel_rows, gemm_rows, panel_rows},
                  [&](float* panel, std::size_t begin, std::size_t n, std::size_t first, std::size_t m,
                      std::size_t k, std::size_t depth, float* sums) {
                    kernels.unpack(w, begin, n, k, depth, panel);
                    kernels.multiply(job.x + first * job.x_stride + k, job.x_stride, m, panel, n, depth,
                                     k != 0, sums);
                  });
}

}  // namespace

LinearWorkspace::LinearWorkspace(const ThreadTeam& team, std::size_t most_rows, std::size_t most_row_bytes)
    : most_rows_(most_rows),
      thread_elements_(panel_elements + sum_rows(most_rows) * panel_rows),
      panels_(static_cast<std::size_t>(team.size()) * thread_elements_),
      rows_(rounded_row_memory(most_rows) * most_row_bytes) {}

std::size_t rounded_row_elements(std::size_t columns) { return round_up(columns, bfloat16_row_step); }

std::size_t rounded_stride(std::size_t columns) {
  return spread_stride(rounded_row_elements(columns) * sizeof(BFloat16)) / sizeof(BFloat16);
}

std::size_t rounded_row_memory(std::size_t rows) { return round_up(rows, bfloat16_row_group); }

std::size_t LinearWorkspace::row_bytes(const WeightMatrix& w, Activations activations) {
  const bool rounds = w.type == DataType::bfloat16 && activations == Activations::bfloat16;
  return rounds ? rounded_stride(w.columns) * sizeof(BFloat16) : 0;
}

float* LinearWorkspace::sums(int thread) { return panel(thread) + panel_elements; }

void LinearWorkspace::round(const float* x, std::size_t columns, std::size_t row, Features features) {
  const std::size_t stride = rounded_stride(columns);
  bfloat16_gemm_kernels(features).round(x, columns, 1, columns, rounded() + row * stride, stride);
}

void linear_of_rounded(const BFloat16* x, const LinearRows& job, const WeightMatrix& w, ThreadTeam& team,
                       LinearWorkspace& workspace, Features features, const Epilogue& epilogue) {
  const BFloat16GemmKernels& kernels = bfloat16_gemm_kernels(features);
  const std::size_t stride = rounded_stride(w.columns);
  const auto* weights = reinterpret_cast<const BFloat16*>(w.values);
  multiply_panels(
      job, w, team, workspace, features, epilogue,
      {job.rows <= bfloat16_few_rows ? kernels.few_columns : kernels.columns, kernels.rows, kernels.columns},
      [&](float* panel, std::size_t begin, std::size_t n, std::size_t first, std::size_t m, std::size_t k,
          std::size_t depth, float* sums) {
        const BFloat16* const rows = weights + begin * w.columns;
        const BFloat16* const next = k + depth < w.columns ? rows + k + depth : rows + n * w.columns;
        kernels.multiply(x + first * stride + k, stride, m, rows + k, w.columns, n, depth, k != 0, sums,
                         reinterpret_cast<BFloat16*>(panel), next);
      });
}

void linear(const LinearRows& job, const WeightMatrix& w, ThreadTeam& team, LinearWorkspace& workspace,
            Features features, const Epilogue& epilogue, Activations activations) {
  if (w.type == DataType::bfloat16 && activations == Activations::bfloat16) {
    team.for_each_range(job.rows, 16, [&](std::size_t begin, std::size_t end) {
      for (std::size_t row = begin; row < end; ++row) {
        workspace.round(job.x + row * job.x_stride, w.columns, row, features);
      }
    });
    return linear_of_rounded(workspace.rounded(), job, w, team, workspace, features, epilogue);
  }
  // The vision side has the epilogues, and many rows; decoding has few, and none.
  if (job.rows <= gemv_rows && epilogue.empty() && job.rounded_y == nullptr) {
    multiply_few(job, w, team, features);
  } else {
    multiply_many(job, w, team, workspace, features, epilogue);
  }
}

}  // namespace internvl
