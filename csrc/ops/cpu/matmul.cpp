#include "ops/cpu/matmul.h"

#include <algorithm>

namespace internvl {
namespace {

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
      linear_(team, workload.rows, rounded_bytes(needs.bfloat16_columns, features)),
      integer_(team, needs.integer_columns > 0 ? workload.rows : 0),
      quantised_(needs.integer_columns > 0 ? workload.rows : 0, needs.integer_columns),
      made_(takes_floats(needs, features) ? workload.made_elements : 0),
      row_(static_cast<std::size_t>(team.size()) * longest_row_) {}

std::size_t Matmul::row_bytes(const RowNeeds& needs, Features features) {
  return (needs.integer_columns > 0 ? QuantisedBuffer::row_bytes(needs.integer_columns) : 0) +
         rounded_bytes(needs.bfloat16_columns, features) +
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
  team_.share(job.rows, row_grain, [&](int thread, std::size_t begin, std::size_t end) {
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
  if (is_integer(w.type)) {
    multiply_quantised(job, w, epilogue);
  } else {
    multiply_rounded(linear_.rounded(), job, w, epilogue);
  }
}

void Matmul::multiply_quantised(const LinearRows& job, const WeightMatrix& w, const Epilogue& epilogue) {
  linear(quantised_.rows(job.rows, w.columns, row_form(w)), job, w, team_, integer_, features_, epilogue);
}

}  // namespace internvl
