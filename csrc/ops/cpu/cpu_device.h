// The CPU: operations over a team of threads and the kernels of one instruction set.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "ops/ops.h"
#include "runtime/features.h"
#include "runtime/thread_team.h"

namespace internvl {

// Weights are computed from where they lie in the host's memory. Activations are fp32; where they meet int8
// or int4 weights they are quantised to int8 (QuantisedRows) and multiplied as integers; where they meet bf16
// weights they are rounded to bf16 if the processor multiplies that (activations_for() in ops/cpu/linear.h),
// and so is what the tower's attention computes from beside either (attends_in_bfloat16() in
// kernels/attention/attention.h).
class CpuDevice : public Device {
 public:
  explicit CpuDevice(std::shared_ptr<ThreadTeam> team, Features features = internvl::features())
      : team_(std::move(team)), features_(features) {}

  std::unique_ptr<DeviceModel> model() const override;
  TurnLock& stretch() const override { return team_->stretch(); }
  void check() const override { team_->check_process(); }
  std::size_t block_tokens() const override;
  std::size_t row_bytes(const RowNeeds& needs) const override;

 private:
  std::shared_ptr<ThreadTeam> team_;
  Features features_;
};

}  // namespace internvl
