#include "model/vision_weights.h"

#include <algorithm>
#include <utility>

#include "ops/weights.h"

namespace internvl {
namespace {

WeightMatrix tower_matrix(const WeightFile& file, const std::string& name, std::size_t rows,
                          std::size_t columns) {
  WeightMatrix weight = matrix_of(file, name + ".weight", rows, columns);
  // Towers are calibrated: their export smooths the channels that are far above the others, and keeps what
  // one scale a row changes too much out of int8.
  weight.activations = ScaleGroup::row;
  return weight;
}

}  // namespace

VisionWeights::VisionWeights(std::shared_ptr<const WeightFile> file, DeviceModel& model)
    : file_(std::move(file)), model_(model) {}

Vector VisionWeights::vector(const std::string& name, std::size_t size) {
  return model_.load(vector_of(*file_, name, size));
}

Norm VisionWeights::norm(const std::string& name, NormKind kind, std::size_t size, float eps) {
  return {kind, vector(name + ".weight", size),
          kind == NormKind::layer_norm ? vector(name + ".bias", size) : Vector{}, eps};
}

Linear VisionWeights::linear(const std::string& name, std::size_t rows, std::size_t columns, bool bias) {
  return {load(tower_matrix(*file_, name, rows, columns)), bias ? vector(name + ".bias", rows) : Vector{}};
}

Linear VisionWeights::linear(const std::string& name, std::size_t rows, std::size_t columns, RowRange part) {
  const std::span<const float> bias = vector_of(*file_, name + ".bias", rows);
  return {load(rows_of(tower_matrix(*file_, name, rows, columns), part.first, part.count)),
          model_.load(bias.subspan(part.first, part.count))};
}

Matrix VisionWeights::load(const WeightMatrix& weight) {
  if (is_integer(weight.type)) {
    storage_.integers = true;
  } else if (weight.type == DataType::bfloat16) {
    storage_.bfloat16_columns = std::max(storage_.bfloat16_columns, weight.columns);
  } else {
    storage_.floats = true;
  }
  return model_.load(weight);
}

}  // namespace internvl
