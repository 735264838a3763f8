#include "ops/cpu/matmul.h"

#include <algorithm>

#include "kernels/activation/activation.h"
#include "kernels/matmul/bfloat16_gemm.h"
#include "kernels/matmul/integer_gemm.h"
#include "kernels/matmul/integer_gemv.h"
#include "kernels/quantise/quantised_rows.h"
#include "runtime/rounding.h"

namespace internvl {
namespace {

// Rows and their number are filled up to whole steps of the kernels: by so many elements and rows at most.
constexpr std::size_t most_filling = 128;
constexpr std::size_t most_group = std::max(most_row_group, bfloat16_row_group);
static_assert(quantised_step <= most_filling / 2 && bfloat16_row_step <= most_filling / 2);

// Elements of a row that there is memory for, where `columns` is the length of the longest: all rows
// together hold Workload.read_elements, whatever their number.
std::size_t read_columns(std::size_t columns, const Workload& workload) {
  if (workload.read_elements == 0) return columns;
  const std::size_t elements = workload.read_elements + most_group * (columns + most_filling);
  return std::min(columns, divide_up(elements, workload.rows) + most_filling);
}

// Bytes of a row that linear() rounds before it multiplies.
std::size_t rounded_bytes(std::size_t columns, Features features) {
  const WeightMatrix widest{DataType::bfloat16, nullptr, nullptr, 0, columns};
  return LinearWorkspace::row_bytes(widest, activations_for(widest.type, features));
}

// Whether some matrices take rows in fp32.
bool takes_floats(const RowNeeds& needs, Features features) {
  return needs.floats || (needs.bfloat16_columns > 0 && rounded_bytes(needs.bfloat16_columns, features) == 0);
}

}  // namespace

Matmul::Matmul(ThreadTeam& team, Features features, const Workload& workload, const RowNeeds& needs)
    : team_(team),
      features_(features),
      longest_row_(std::max(needs.bfloat16_columns, needs.integer_columns)),
      linear_(team, workload.rows, rounded_bytes(read_columns(needs.bfloat16_columns, workload), features)),
      integer_(team, needs.integer_columns > 0 ? workload.rows : 0),
      quantised_(needs.integer_columns > 0 ? workload.rows : 0,
                 read_columns(needs.integer_columns, workload)),
      made_(takes_floats(needs, features) ? workload.made_elements : 0),
      row_(static_cast<std::size_t>(team.size()) * longest_row_) {}

std::size_t Matmul::row_bytes(const RowNeeds& needs, Features features) {
  const auto read = [&](std::size_t columns) {
    return needs.read_columns == 0 ? columns : std::min(columns, needs.read_columns + most_filling);
  };
  return (needs.integer_columns > 0 ? QuantisedBuffer::row_bytes(read(needs.integer_columns)) : 0) +
         rounded_bytes(read(needs.bfloat16_columns), features) +
         (takes_floats(needs, features) ? needs.made_columns * sizeof(float) : 0);
}

void Matmul::multiply(const LinearRows& job, const WeightMatrix& w, const Epilogue& epilogue) {
  if (!is_integer(w.type)) {
    linear(job, w, team_, linear_, features_, epilogue);
    return;
  }
  team_.for_each_range(job.rows, row_grain, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      quantised_.quantise(job.x + row * job.x_stride, w.columns, row_form(w), row, features_);
    }
  });
  multiply_quantised(job, w, epilogue);
}

void Matmul::multiply_rounded(const BFloat16* x, const LinearRows& job, const WeightMatrix& w,
                              const Epilogue& epilogue) {
  linear_of_rounded(x, job, w, team_, linear_, features_, epilogue);
}

void Matmul::multiply_made(Make make, const LinearRows& job, const WeightMatrix& w,
                           const Epilogue& epilogue) {
  if (!is_integer(w.type) && !rounds(w)) {
    float* made = made_.data();
    team_.for_each_range(job.rows, row_grain, [&](std::size_t begin, std::size_t end) {
      for (std::size_t row = begin; row < end; ++row) make(row, made + row * w.columns);
    });
    LinearRows from_made = job;
    from_made.x = made;
    from_made.x_stride = w.columns;
    linear(from_made, w, team_, linear_, features_, epilogue);
    return;
  }
  convert_made(make, job.rows, w);
  if (is_integer(w.type)) {
    multiply_quantised(job, w, epilogue);
  } else {
    multiply_rounded(linear_.rounded(), job, w, epilogue);
  }
}

void Matmul::convert_made(Make make, std::size_t rows, const WeightMatrix& w) {
  team_.share(rows, row_grain, [&](int thread, std::size_t begin, std::size_t end) {
    float* made = row_.data() + static_cast<std::size_t>(thread) * longest_row_;
    for (std::size_t row = begin; row < end; ++row) {
      make(row, made);
      if (is_integer(w.type)) {
        quantised_.quantise(made, w.columns, row_form(w), row, features_);
      } else {
        linear_.round(made, w.columns, row, features_);
      }
    }
  });
}

void Matmul::multiply_gated(Make make, const WeightMatrix& gate_up, const WeightMatrix& down,
                            std::span<float> inner, const LinearRows& job) {
  const std::size_t columns = down.columns;
  // What is quantised with one scale for a row must be known as a whole before; decoding has few rows.
  if (is_integer(gate_up.type) && is_integer(down.type) && row_form(down) != RowForm::whole &&
      job.rows > integer_gemv_rows &&
      quantised_bytes(job.rows, columns, row_form(down)) <= inner.size_bytes()) {
    convert_made(make, job.rows, gate_up);
    const QuantisedOutput gated =
        quantised_output(std::as_writable_bytes(inner).data(), job.rows, columns, row_form(down));
    gated_linear(quantised_.rows(job.rows, gate_up.columns, row_form(gate_up)), gate_up, gated, team_,
                 integer_, features_);
    linear(
        {gated.values, gated.stride, gated.scales, gated.starts, gated.groups, job.rows, columns, gated.form},
        job, down, team_, integer_, features_);
    return;
  }
  float* const gates = inner.data();
  multiply_made(make, {nullptr, 0, job.rows, nullptr, false, gates, gate_up.rows}, gate_up);
  const ActivationKernels& activation = activation_kernels(features_);
  const auto gated = [&](std::size_t row, float* out) {
    const float* gate = gates + row * gate_up.rows;
    activation.silu_multiply(gate, gate + columns, columns, out);
  };
  multiply_made(gated, job, down);
}

void Matmul::multiply_quantised(const LinearRows& job, const WeightMatrix& w, const Epilogue& epilogue) {
  linear(quantised_.rows(job.rows, w.columns, row_form(w)), job, w, team_, integer_, features_, epilogue);
}

}  // namespace internvl
