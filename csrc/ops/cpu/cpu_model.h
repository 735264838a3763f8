// What a model keeps on the CPU: views of its weights, and the blocks of its cache.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "kernels/matmul/weight_matrix.h"
#include "ops/cpu/kv_storage.h"
#include "ops/ops.h"
#include "runtime/features.h"
#include "runtime/thread_team.h"

namespace internvl {

class CpuModel : public DeviceModel {
 public:
  CpuModel(std::shared_ptr<ThreadTeam> team, Features features)
      : team_(std::move(team)), features_(features) {}

  Matrix load(const WeightMatrix& weight) override;
  Vector load(std::span<const float> values) override;
  void allocate_cache(const CacheShape& shape) override;
  std::unique_ptr<Operations> operations(const Workload& workload) override;
  void embed(const Matrix& table, std::span<const std::int64_t> tokens, std::span<float> rows) const override;
  void copy_blocks(std::span<const BlockCopy> copies) override;

  ThreadTeam& team() const { return *team_; }
  Features features() const { return features_; }
  const RowNeeds& needs() const { return needs_; }
  const WeightMatrix& weight(const Matrix& matrix) const { return matrices_[matrix.id]; }
  const float* values(const Vector& vector) const { return vector ? vectors_[vector.id] : nullptr; }
  const CacheShape& cache_shape() const { return cache_shape_; }
  KvStorage* storage() { return storage_.get(); }

 private:
  std::shared_ptr<ThreadTeam> team_;
  Features features_;
  RowNeeds needs_;
  std::vector<WeightMatrix> matrices_;
  std::vector<const float*> vectors_;
  CacheShape cache_shape_{};
  std::unique_ptr<KvStorage> storage_;  // none without a language model
};

}  // namespace internvl
