#include "ops/cpu/integer_linear.h"

#include <algorithm>

#include "kernels/matmul/integer_gemv.h"
#include "kernels/quantise/quantise.h"
#include "runtime/rounding.h"

namespace internvl {
namespace {

constexpr std::size_t panel_bytes = most_panel_element_bytes * integer_panel_columns * integer_panel_depth;
constexpr std::size_t panel_scales = integer_panel_columns * integer_panel_depth / quantised_block;

// Bytes of weights that a thread takes at a time in a GEMV: large enough that taking costs nothing, small
// enough that threads end together. In whole groups of the rows that the kernel takes at once.
constexpr std::size_t gemv_bytes = 32768;
constexpr std::size_t gemv_group = 16;

// Bytes of values in a row of that many columns, and its groups where they are smallest.
std::size_t row_values(std::size_t columns) { return spread_stride(round_up(columns, quantised_step)); }
std::size_t blocks_of(std::size_t columns) { return divide_up(columns, quantised_block); }
std::size_t most_groups(std::size_t columns) { return std::max<std::size_t>(blocks_of(columns), 1); }

std::size_t groups_of(std::size_t columns, RowForm form) {
  return form == RowForm::whole ? 1 : blocks_of(columns);
}

// Calls multiply(thread, rows, first, begin, n) for every `width` of `columns` columns and every piece of the
// rows of x. All columns meet the same rows, which stay in the second cache, before they meet the next ones.
// A thread's columns lie behind each other: so its next weights are known, and two threads do not write the
// same cache lines by turns.
template <class Multiply>
void for_each_panel(const QuantisedRows& x, std::size_t columns, std::size_t width, ThreadTeam& team,
                    Multiply multiply) {
  const std::size_t piece = rows_of_a_piece(x.rows, integer_gemm_rows);
  const std::size_t panels = divide_up(columns, width);
  team.share(panels * divide_up(x.rows, piece), 1, [&](int thread, std::size_t share, std::size_t) {
    const std::size_t first = share / panels * piece;
    const std::size_t begin = share % panels * width;
    multiply(thread, x.from(first).first(std::min(piece, x.rows - first)), first, begin,
             std::min(width, columns - begin));
  });
}

}  // namespace

QuantisedBuffer::QuantisedBuffer(std::size_t most_rows, std::size_t most_columns)
    : rows_(round_up(most_rows, most_row_group)),
      bytes_(rows_ * row_bytes(most_columns)),
      values_(rows_ * row_values(most_columns)),
      scales_(rows_ * most_groups(most_columns)),
      starts_(rows_ * most_groups(most_columns)) {}

std::size_t QuantisedBuffer::row_bytes(std::size_t most_columns) {
  return row_values(most_columns) + most_groups(most_columns) * (sizeof(float) + sizeof(std::int32_t));
}

void QuantisedBuffer::quantise(const float* x, std::size_t columns, RowForm form, std::size_t row,
                               Features features) {
  const std::size_t groups = groups_of(columns, form);
  const QuantiseKernels::Quantise kernel = quantise_kernels(features).of(form);
  kernel(x, columns, values_.data() + row * row_values(columns), scales_.data() + row * groups,
         starts_.data() + row * groups);
}

QuantisedRows QuantisedBuffer::rows(std::size_t rows, std::size_t columns, RowForm form) const {
  return {values_.data(),
          row_values(columns),
          scales_.data(),
          starts_.data(),
          groups_of(columns, form),
          rows,
          columns,
          form};
}

std::size_t QuantisedBuffer::bytes() const { return bytes_; }

std::size_t quantised_bytes(std::size_t rows, std::size_t columns, RowForm form) {
  return round_up(rows, most_row_group) *
         (row_values(columns) + groups_of(columns, form) * (sizeof(float) + sizeof(std::int32_t)));
}

QuantisedOutput quantised_output(std::byte* memory, std::size_t rows, std::size_t columns, RowForm form) {
  const std::size_t all = round_up(rows, most_row_group);
  const std::size_t groups = groups_of(columns, form);
  std::byte* const scales = memory + all * row_values(columns);
  std::byte* const starts = scales + all * groups * sizeof(float);
  return {reinterpret_cast<std::int8_t*>(memory),
          row_values(columns),
          reinterpret_cast<float*>(scales),
          reinterpret_cast<std::int32_t*>(starts),
          groups,
          columns,
          form};
}

IntegerWorkspace::IntegerWorkspace(const ThreadTeam& team, std::size_t most_rows)
    : sums_(round_up(std::min(most_rows, integer_gemm_rows), most_row_group) * integer_panel_columns),
      weights_(static_cast<std::size_t>(team.size()) * panel_bytes),
      scales_(static_cast<std::size_t>(team.size()) * panel_scales),
      row_sums_(static_cast<std::size_t>(team.size()) * sums_),
      block_totals_(row_sums_.size()) {}

IntegerPanel IntegerWorkspace::panel(int thread) {
  const auto t = static_cast<std::size_t>(thread);
  return {weights_.data() + t * panel_bytes, scales_.data() + t * panel_scales, row_sums_.data() + t * sums_,
          block_totals_.data() + t * sums_};
}

std::size_t IntegerWorkspace::bytes() const {
  return weights_.size() + sizeof(float) * (scales_.size() + row_sums_.size() + block_totals_.size());
}

void linear(const QuantisedRows& x, const LinearRows& job, const WeightMatrix& w, ThreadTeam& team,
            IntegerWorkspace& workspace, Features features, const Epilogue& epilogue) {
  // Decoding has few rows, and no epilogue; what has one scale for a row is no language model.
  if (job.rows <= integer_gemv_rows && epilogue.empty() && x.form != RowForm::whole &&
      job.rounded_y == nullptr) {
    const IntegerGemvKernels& kernels = integer_gemv_kernels(features);
    const std::size_t row_bytes =
        std::max<std::size_t>(w.type == DataType::int4 ? w.columns / 2 : w.columns, 1);
    const std::size_t grain = round_up(std::max<std::size_t>(gemv_bytes / row_bytes, 1), gemv_group);
    team.for_each_range(w.rows, grain,
                        [&](std::size_t begin, std::size_t end) { kernels.multiply(x, job, w, begin, end); });
    return;
  }
  const IntegerGemmKernels& kernels = integer_gemm_kernels(features);
  for_each_panel(
      x, w.rows, integer_panel_columns, team,
      [&](int thread, const QuantisedRows& rows, std::size_t first, std::size_t begin, std::size_t n) {
        kernels.multiply(rows, first, job, w, epilogue, begin, n, workspace.panel(thread));
      });
}

void gated_linear(const QuantisedRows& x, const WeightMatrix& gate_up, const QuantisedOutput& out,
                  ThreadTeam& team, IntegerWorkspace& workspace, Features features) {
  const IntegerGemmKernels& kernels = integer_gemm_kernels(features);
  for_each_panel(
      x, out.columns, gated_columns, team,
      [&](int thread, const QuantisedRows& rows, std::size_t first, std::size_t begin, std::size_t n) {
        kernels.multiply_gated(rows, first, gate_up, out, begin, n, workspace.panel(thread));
      });
}

}  // namespace internvl
