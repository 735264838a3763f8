// A linear layer on a team of threads: y = epilogue(x W^T (+ bias)) (+ y), for any number of rows.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/gemm/gemm.h"
#include "kernels/gemm/weight_matrix.h"
#include "kernels/gemv/gemv.h"
#include "runtime/instruction_set.h"
#include "runtime/thread_team.h"

namespace internvl {

// The memory that linear layers compute in, allocated once.
class LinearWorkspace {
 public:
  // For layers of up to `most_columns` inputs, at most `most_rows` rows of x at a time.
  LinearWorkspace(const ThreadTeam& team, std::size_t most_rows, std::size_t most_columns);

  float* panel(int thread) { return panels_.data() + thread * thread_elements_; }
  float* sums(int thread);
  float* interleaved() { return interleaved_.data(); }
  std::size_t most_rows() const { return most_rows_; }
  std::size_t bytes() const { return (panels_.size() + interleaved_.size()) * sizeof(float); }

 private:
  std::size_t most_rows_;
  std::size_t thread_elements_;
  std::vector<float> panels_;
  std::vector<float> interleaved_;
};

// Computes job.y from job.x (in its natural order) and w. job.rows is at most workspace.most_rows().
//
// A row of y depends on its row of x and on w alone, bit for bit: not on the other rows, on how many there
// are, or on the number of threads.
void linear(const LinearRows& job, const WeightMatrix& w, ThreadTeam& team, LinearWorkspace& workspace,
            InstructionSet set = instruction_set(), const Epilogue& epilogue = {});

}  // namespace internvl
