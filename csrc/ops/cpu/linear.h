// A linear layer with weights in fp32, fp16 or bf16 on a team of threads: y = epilogue(x W^T (+ bias)) (+ y),
// for any number of rows.
#pragma once

#include <cstddef>

#include "kernels/matmul/gemm.h"
#include "kernels/matmul/gemv.h"
#include "kernels/matmul/weight_matrix.h"
#include "kernels/vector/storage.h"
#include "runtime/aligned_array.h"
#include "runtime/features.h"
#include "runtime/thread_team.h"

namespace internvl {

// How x meets the weights.
enum class Activations {
  exact,
  bfloat16,  // rounded to bf16, for weights in bf16
};

// Weights in bf16 meet rounded activations where the processor multiplies bf16 twice as fast as fp32: what is
// lost by that is of the size that storing the weights in bf16 has lost already. All others meet exact ones.
constexpr Activations activations_for(DataType weights, Features features) {
  return weights == DataType::bfloat16 && multiplies_bfloat16(features) ? Activations::bfloat16
                                                                        : Activations::exact;
}

// Rounded rows of activations: elements of one, which ends in zeros; elements from one row to the next; and
// how many rows there is memory for, since kernels read whole groups of rows.
std::size_t rounded_row_elements(std::size_t columns);
std::size_t rounded_stride(std::size_t columns);
std::size_t rounded_row_memory(std::size_t rows);

// The memory that linear layers compute in, allocated once.
class LinearWorkspace {
 public:
  // For at most `most_rows` rows of x at a time, of which it rounds rows of at most `most_row_bytes`.
  LinearWorkspace(const ThreadTeam& team, std::size_t most_rows, std::size_t most_row_bytes);

  float* panel(int thread) { return panels_.data() + thread * thread_elements_; }
  float* sums(int thread);
  BFloat16* rounded() { return reinterpret_cast<BFloat16*>(rows_.data()); }
  // Rounds x [columns] to row `row` of rounded(). Rows may be filled by several threads.
  void round(const float* x, std::size_t columns, std::size_t row, Features features);
  std::size_t most_rows() const { return most_rows_; }
  std::size_t bytes() const { return panels_.size() * sizeof(float) + rows_.size(); }

  // Bytes of a row of x that linear() rounds before it multiplies; none where it does not.
  static std::size_t row_bytes(const WeightMatrix& w, Activations activations);

 private:
  std::size_t most_rows_;
  std::size_t thread_elements_;
  AlignedArray<float> panels_;
  AlignedArray<std::byte> rows_;  // rounded; not touched before they are used
};

// Computes job.y from job.x and w. job.rows is at most workspace.most_rows().
//
// A row of y depends on its row of x and on w alone, bit for bit: not on the other rows, on how many there
// are, or on the number of threads.
void linear(const LinearRows& job, const WeightMatrix& w, ThreadTeam& team, LinearWorkspace& workspace,
            Features features, const Epilogue& epilogue, Activations activations);

// The same for bf16 weights and rows x [rounded_row_memory(job.rows), rounded_stride(w.columns)] that are
// rounded already, and end in zeros; they stand in place of job.x.
void linear_of_rounded(const BFloat16* x, const LinearRows& job, const WeightMatrix& w, ThreadTeam& team,
                       LinearWorkspace& workspace, Features features, const Epilogue& epilogue = {});

// The same with the activations that suit w and the set.
inline void linear(const LinearRows& job, const WeightMatrix& w, ThreadTeam& team, LinearWorkspace& workspace,
                   Features features = internvl::features(), const Epilogue& epilogue = {}) {
  linear(job, w, team, workspace, features, epilogue, activations_for(w.type, features));
}

}  // namespace internvl
