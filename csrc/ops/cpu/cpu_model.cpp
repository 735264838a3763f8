#include "ops/cpu/cpu_model.h"

#include <algorithm>
#include <new>
#include <string>

#include "kernels/attention/attention.h"
#include "kernels/matmul/gemm.h"
#include "kernels/matmul/integer_gemm.h"
#include "ops/cpu/cpu_device.h"
#include "ops/cpu/cpu_operations.h"
#include "runtime/error.h"

namespace internvl {

std::unique_ptr<DeviceModel> CpuDevice::model() const { return std::make_unique<CpuModel>(team_, features_); }

std::size_t CpuDevice::block_tokens() const { return cache_block; }

std::size_t CpuDevice::row_bytes(const RowNeeds& needs) const { return Matmul::row_bytes(needs, features_); }

Matrix CpuModel::load(const WeightMatrix& w) {
  if (is_integer(w.type)) {
    if (w.columns > most_integer_columns) {
      throw BundleError("a matrix of integers has rows of " + std::to_string(w.columns) +
                            " elements; the native engine takes at most " +
                            std::to_string(most_integer_columns) + ", for which sums are exact.",
                        ErrorCode::engine_cannot);
    }
    needs_.integer_columns = std::max(needs_.integer_columns, w.columns);
  } else if (w.type == DataType::bfloat16) {
    needs_.bfloat16_columns = std::max(needs_.bfloat16_columns, w.columns);
  } else {
    needs_.floats = true;
  }
  matrices_.push_back(w);
  return {static_cast<std::uint32_t>(matrices_.size() - 1), w.type, w.rows, w.columns};
}

Vector CpuModel::load(std::span<const float> values) {
  vectors_.push_back(values.data());
  return {static_cast<std::uint32_t>(vectors_.size() - 1)};
}

void CpuModel::allocate_cache(const CacheShape& shape) {
  storage_ = std::make_unique<KvStorage>(shape, *team_, features_);
  cache_shape_ = shape;
}

std::unique_ptr<Operations> CpuModel::operations(const Workload& workload) {
  try {
    return std::make_unique<CpuOperations>(*this, workload);
  } catch (const std::bad_alloc&) {
    throw DeviceError("there is no memory for the activations of " + std::to_string(workload.rows) +
                      " tokens at once. Free memory, or use a smaller model.");
  }
}

void CpuModel::embed(const Matrix& table, std::span<const std::int64_t> tokens, std::span<float> rows) const {
  const GemmKernels& kernels = gemm_kernels(features_);
  const WeightMatrix& w = weight(table);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    for (std::size_t k = 0; k < w.columns; k += panel_depth) {
      kernels.unpack(w, static_cast<std::size_t>(tokens[i]), 1, k, std::min(panel_depth, w.columns - k),
                     &rows[i * w.columns + k]);
    }
  }
}

void CpuModel::copy_blocks(std::span<const BlockCopy> copies) {
  for (const BlockCopy& copy : copies) storage_->copy(copy);
}

}  // namespace internvl
