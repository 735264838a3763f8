// The layers of the vision side, brought from the mapped file to a device.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "ops/ops.h"
#include "runtime/weight_file.h"

namespace internvl {

// How the matrices of the vision side are stored: what rows need beside them.
struct VisionStorage {
  bool floats = false;               // some matrices of layers, projector or router are fp32 or fp16
  bool integers = false;             // some are int8 or int4
  std::size_t bfloat16_columns = 0;  // of the widest that is bf16
};

// Every function throws BundleError if a tensor is missing, or of another shape or type.
class VisionWeights {
 public:
  // `model` has to stay.
  VisionWeights(std::shared_ptr<const WeightFile> file, DeviceModel& model);

  Vector vector(const std::string& name, std::size_t size);
  Norm norm(const std::string& name, NormKind kind, std::size_t size, float eps);
  Linear linear(const std::string& name, std::size_t rows, std::size_t columns, bool bias = true);
  // Some rows of such a layer, which has a bias, as a layer of their own.
  Linear linear(const std::string& name, std::size_t rows, std::size_t columns, RowRange part);

  const WeightFile& file() const { return *file_; }
  // Of what was loaded so far.
  const VisionStorage& storage() const { return storage_; }

 private:
  Matrix load(const WeightMatrix& weight);

  std::shared_ptr<const WeightFile> file_;
  DeviceModel& model_;
  VisionStorage storage_;
};

}  // namespace internvl
