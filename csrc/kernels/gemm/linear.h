// A linear layer on a team of threads: y = epilogue(x W^T (+ bias)) (+ y), for any number of rows.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/gemm/gemm.h"
#include "kernels/gemm/weight_matrix.h"
#include "kernels/gemv/gemv.h"
#include "kernels/vector/storage.h"
#include "runtime/instruction_set.h"
#include "runtime/thread_team.h"

namespace internvl {

// How x meets weights in bf16; others always meet it as it is.
enum class Activations {
  exact,
  bfloat16,  // rounded to bf16: twice as fast where multiplies_bfloat16() (runtime/instruction_set.h)
};

// The memory that linear layers compute in, allocated once.
class LinearWorkspace {
 public:
  // For at most `most_rows` rows of x at a time, of up to `most_columns` elements where weights are int4 or x
  // is rounded.
  LinearWorkspace(const ThreadTeam& team, std::size_t most_rows, std::size_t most_columns);

  float* panel(int thread) { return panels_.data() + thread * thread_elements_; }
  float* sums(int thread);
  float* interleaved() { return reinterpret_cast<float*>(reordered_.data()); }
  BFloat16* rounded() { return reinterpret_cast<BFloat16*>(reordered_.data()); }
  std::size_t most_rows() const { return most_rows_; }
  std::size_t bytes() const { return panels_.size() * sizeof(float) + reordered_.size(); }

 private:
  std::size_t most_rows_;
  std::size_t thread_elements_;
  std::vector<float> panels_;
  std::vector<std::byte> reordered_;
};

// Computes job.y from job.x (in its natural order) and w. job.rows is at most workspace.most_rows().
//
// A row of y depends on its row of x and on w alone, bit for bit: not on the other rows, on how many there
// are, or on the number of threads.
void linear(const LinearRows& job, const WeightMatrix& w, ThreadTeam& team, LinearWorkspace& workspace,
            InstructionSet set = instruction_set(), const Epilogue& epilogue = {},
            Activations activations = Activations::exact);

}  // namespace internvl
