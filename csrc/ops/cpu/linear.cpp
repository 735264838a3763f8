#include "ops/cpu/linear.h"

#include <algorithm>
#include <atomic>

#include "kernels/matmul/bfloat16_gemm.h"
#include "kernels/matmul/gemm.h"

namespace internvl {
namespace {

// Rounded rows are filled up to a multiple of this many elements.
constexpr std::size_t rounded_step = 64;
static_assert(rounded_step % bfloat16_row_step == 0);

// Bytes of weights that a thread takes at a time: large enough that taking costs nothing, small enough that
// threads end together.
constexpr std::size_t gemv_bytes = 32768;

// Rows of W in a panel of bf16 that few rows of x meet: as small as the kernels' tiles allow (of four or
// sixteen), so that threads end together and the other rows of x find the panel in the first cache.
constexpr std::size_t few_panel_rows = 16;

void multiply_few(const LinearRows& job, const WeightMatrix& w, ThreadTeam& team, Features features) {
  const GemvKernels& kernels = gemv_kernels(features);
  const std::size_t row_bytes = std::max<std::size_t>(w.columns * (w.type == DataType::float32 ? 4 : 1), 1);
  const std::size_t grain = std::max<std::size_t>(gemv_bytes / row_bytes / 12, 1) * 12;
  team.for_each_range(w.rows, grain,
                      [&](std::size_t begin, std::size_t end) { kernels.multiply(job, w, begin, end); });
}

// Takes `width` <= panel_rows rows of W at a time, and most_rows rows of x. multiply(panel, begin, n, first,
// m, k, depth, sums) computes the sums [m, n] of elements [k, k + depth), or adds them where k is not 0.
template <class Multiply>
void multiply_panels(const LinearRows& job, const WeightMatrix& w, ThreadTeam& team,
                     LinearWorkspace& workspace, Features features, const Epilogue& epilogue,
                     std::size_t width, std::size_t most_rows, Multiply multiply) {
  const GemmKernels& kernels = gemm_kernels(features);
  const std::size_t piece = rows_of_a_piece(job.rows, most_rows);
  std::atomic<std::size_t> next{0};
  team.run([&](int thread) {
    float* panel = workspace.panel(thread);
    float* sums = workspace.sums(thread);
    for (;;) {
      const std::size_t begin = next.fetch_add(width, std::memory_order_relaxed);
      if (begin >= w.rows) return;
      const std::size_t n = std::min(width, w.rows - begin);
      for (std::size_t first = 0; first < job.rows; first += piece) {
        const std::size_t m = std::min(piece, job.rows - first);
        for (std::size_t k = 0; k < w.columns; k += panel_depth) {
          const std::size_t depth = std::min(panel_depth, w.columns - k);
          multiply(panel, begin, n, first, m, k, depth, sums);
        }
        kernels.finish(sums, m, begin, n, job, first, epilogue);
      }
    }
  });
}

void multiply_many(const LinearRows& job, const WeightMatrix& w, ThreadTeam& team, LinearWorkspace& workspace,
                   Features features, const Epilogue& epilogue) {
  const GemmKernels& kernels = gemm_kernels(features);
  multiply_panels(job, w, team, workspace, features, epilogue, panel_rows, gemm_rows,
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
      rows_bytes_(most_rows * most_row_bytes),
      thread_elements_(panel_elements +
                       std::min(most_rows, std::max(gemm_rows, bfloat16_gemm_rows)) * panel_rows),
      panels_(static_cast<std::size_t>(team.size()) * thread_elements_),
      rows_(std::make_unique_for_overwrite<std::byte[]>(rows_bytes_)) {}

std::size_t rounded_stride(std::size_t columns) {
  return (columns + rounded_step - 1) / rounded_step * rounded_step;
}

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
  multiply_panels(job, w, team, workspace, features, epilogue,
                  job.rows <= bfloat16_few_rows ? few_panel_rows : panel_rows, bfloat16_gemm_rows,
                  [&](float* panel, std::size_t begin, std::size_t n, std::size_t first, std::size_t m,
                      std::size_t k, std::size_t depth, float* sums) {
                    kernels.multiply(x + first * stride + k, stride, m, weights + begin * w.columns + k,
                                     w.columns, n, depth, k != 0, sums, reinterpret_cast<BFloat16*>(panel));
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
