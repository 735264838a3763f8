// A linear layer with integer weights and quantised activations, on a team of threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/matmul/gemv.h"
#include "kernels/matmul/integer_gemm.h"
#include "kernels/matmul/weight_matrix.h"
#include "kernels/quantise/quantised_rows.h"
#include "runtime/aligned_array.h"
#include "runtime/features.h"
#include "runtime/thread_team.h"

namespace internvl {

// Memory for quantised rows, allocated once and not touched before it is used.
class QuantisedBuffer {
 public:
  // For up to `most_rows` rows of up to `most_columns` elements; the longest layout of any form.
  QuantisedBuffer(std::size_t most_rows, std::size_t most_columns);

  // Quantises x [columns] to row `row` of rows of that many columns. Rows may be filled by several threads.
  void quantise(const float* x, std::size_t columns, RowForm form, std::size_t row,
                Features features = internvl::features());
  // The first `rows` rows.
  QuantisedRows rows(std::size_t rows, std::size_t columns, RowForm form) const;
  std::size_t bytes() const;

  // What a row of that many columns takes.
  static std::size_t row_bytes(std::size_t most_columns);

 private:
  std::size_t rows_;  // whole groups, as the kernels take them
  std::size_t bytes_;
  AlignedArray<std::int8_t> values_;
  AlignedArray<float> scales_;
  AlignedArray<std::int32_t> starts_;
};

// Bytes of rows of that many elements, whole groups of rows as kernels take them; and such rows in memory of
// at least as many, which is aligned as floats are.
std::size_t quantised_bytes(std::size_t rows, std::size_t columns, RowForm form);
QuantisedOutput quantised_output(std::byte* memory, std::size_t rows, std::size_t columns, RowForm form);

// The memory that each thread computes in, allocated once.
class IntegerWorkspace {
 public:
  // For at most `most_rows` rows of x at a time.
  IntegerWorkspace(const ThreadTeam& team, std::size_t most_rows);

  IntegerPanel panel(int thread);
  std::size_t bytes() const;

 private:
  std::size_t sums_;  // of a thread
  AlignedArray<std::int8_t> weights_;
  AlignedArray<float> scales_;
  AlignedArray<std::int32_t> row_sums_;
  AlignedArray<float> block_totals_;
};

// Computes job.y from x, which stands in place of job.x, and w, whose type is_integer() and which has at most
// most_integer_columns columns. What happens to a sum afterwards (scale, bias, epilogue, addend) is as in
// linear() of linear.h.
//
// A row of y depends on its row of x and on w alone, bit for bit: not on the other rows, on how many there
// are, or on the number of threads.
void linear(const QuantisedRows& x, const LinearRows& job, const WeightMatrix& w, ThreadTeam& team,
            IntegerWorkspace& workspace, Features features = internvl::features(),
            const Epilogue& epilogue = {});

// Rows silu(gate) * up of x, in a form of blocks: gate is the first half of x gate_up^T, up the second. They
// have the bits that they have where each step goes over whole rows.
void gated_linear(const QuantisedRows& x, const WeightMatrix& gate_up, const QuantisedOutput& out,
                  ThreadTeam& team, IntegerWorkspace& workspace, Features features = internvl::features());

}  // namespace internvl
