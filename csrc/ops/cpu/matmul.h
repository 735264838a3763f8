// Linear layers with weights of any type: rows of activations take the form that suits the weights (fp32,
// bf16 or int8), in memory that is allocated once.
#pragma once

#include <cstddef>
#include <span>

#include "kernels/matmul/epilogue.h"
#include "kernels/matmul/gemv.h"
#include "kernels/matmul/weight_matrix.h"
#include "ops/cpu/integer_linear.h"
#include "ops/cpu/linear.h"
#include "ops/ops.h"
#include "runtime/aligned_array.h"
#include "runtime/features.h"
#include "runtime/function_ref.h"
#include "runtime/thread_team.h"

namespace internvl {

// Rows that a thread takes at a time in the small steps between matrices.
inline constexpr std::size_t row_grain = 8;

// A row of y depends on its row of x and on w alone, bit for bit: not on the other rows, on how many there
// are, or on the number of threads.
class Matmul {
 public:
  // Allocates memory, which is not touched before it is used.
  Matmul(ThreadTeam& team, Features features, const Workload& workload, const RowNeeds& needs);

  // y (+)= epilogue(x W^T (+ bias)); y may be x only where no element is read after it was written.
  void multiply(const LinearRows& job, const WeightMatrix& w, const Epilogue& epilogue = {});

  // Whether w meets rows that are rounded to bf16.
  bool rounds(const WeightMatrix& w) const {
    return activations_for(w.type, features_) == Activations::bfloat16;
  }
  // The same for rows x [job.rows, rounded_stride(w.columns)] that are rounded already, and end in zeros;
  // they stand in place of job.x. For weights that rounds() is true of.
  void multiply_rounded(const BFloat16* x, const LinearRows& job, const WeightMatrix& w,
                        const Epilogue& epilogue = {});

  // Writes row `row` of what is multiplied, [w.columns].
  using Make = FunctionRef<void(std::size_t row, float* out)>;
  // The same for rows that `make` makes, in place of job.x: they go into their form while they are in the
  // first cache.
  void multiply_made(Make make, const LinearRows& job, const WeightMatrix& w, const Epilogue& epilogue = {});

  // The same for rows silu(gate) * up, gate and up being the halves of what gate_up makes of such rows:
  // y (+)= down . (silu(gate) * up). `inner` is memory for [job.rows, 2 * down.columns].
  void multiply_gated(Make make, const WeightMatrix& gate_up, const WeightMatrix& down,
                      std::span<float> inner, const LinearRows& job);

  // What Workload.rows costs, for each row.
  static std::size_t row_bytes(const RowNeeds& needs, Features features);

 private:
  // Brings rows that `make` makes, of a matrix that does not take them in fp32, into the form that it takes.
  void convert_made(Make make, std::size_t rows, const WeightMatrix& w);
  void multiply_quantised(const LinearRows& job, const WeightMatrix& w, const Epilogue& epilogue);

  ThreadTeam& team_;
  Features features_;
  std::size_t longest_row_;
  LinearWorkspace linear_;
  IntegerWorkspace integer_;
  QuantisedBuffer quantised_;
  AlignedArray<float> made_;  // rows for weights that take them in fp32
  AlignedArray<float> row_;   // [threads, longest_row_]: one that a thread makes
};

}  // namespace internvl
