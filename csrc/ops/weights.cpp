#include "ops/weights.h"

#include <array>

#include "runtime/error.h"

namespace internvl {
namespace {

const std::byte* aligned(const Tensor& tensor, std::size_t alignment) {
  if (reinterpret_cast<std::uintptr_t>(tensor.bytes.data()) % alignment != 0) {
    throw BundleError("tensor '" + std::string(tensor.name) + "' does not lie at a multiple of " +
                      std::to_string(alignment) + " bytes in its file. Export the bundle again.");
  }
  return tensor.bytes.data();
}

const std::byte* typed(const Tensor& tensor, DataType type, std::size_t alignment) {
  if (tensor.type != type) {
    throw BundleError("tensor '" + std::string(tensor.name) + "' is " + std::string(name_of(tensor.type)) +
                      " where " + std::string(name_of(type)) + " is expected. Export the bundle again.");
  }
  return aligned(tensor, alignment);
}

const std::byte* scales_from(const WeightMatrix& w, std::size_t first) {
  if (w.scales == nullptr) return nullptr;
  const std::size_t bytes =
      w.type == DataType::int8 ? sizeof(float) : byte_size(DataType::float16, w.columns / int4_block);
  return w.scales + first * bytes;
}

}  // namespace

WeightMatrix matrix_of(const WeightFile& weights, const std::string& name, std::size_t rows,
                       std::size_t columns) {
  return matrix_of(weights, name,
                   std::array{static_cast<std::int64_t>(rows), static_cast<std::int64_t>(columns)});
}

WeightMatrix matrix_of(const WeightFile& weights, const std::string& name,
                       std::span<const std::int64_t> shape) {
  const Tensor tensor = weights.tensor(name, shape);
  const std::int64_t n = shape[0];
  std::int64_t k = 1;
  for (const std::int64_t extent : shape.subspan(1)) k *= extent;
  const auto columns = static_cast<std::size_t>(k);
  WeightMatrix found{tensor.type, nullptr, nullptr, static_cast<std::size_t>(n), columns};
  switch (tensor.type) {
    case DataType::float32:
      found.values = aligned(tensor, 4);
      break;
    case DataType::float16:
    case DataType::bfloat16:
      found.values = aligned(tensor, 2);
      break;
    case DataType::int8:
      found.values = tensor.bytes.data();
      found.scales = typed(weights.tensor(name_of_scales(name), std::array{n}), DataType::float32, 4);
      break;
    case DataType::int4:
      if (columns % int4_block != 0) {
        throw BundleError("tensor '" + name + "' is int4 with rows of " + std::to_string(columns) +
                          " elements, which is not a multiple of " + std::to_string(int4_block) +
                          ". Export the bundle in another precision.");
      }
      found.values = tensor.bytes.data();
      found.scales = typed(
          weights.tensor(name_of_scales(name), std::array{n, k / static_cast<std::int64_t>(int4_block)}),
          DataType::float16, 2);
      break;
  }
  return found;
}

WeightMatrix float_matrix_of(const WeightFile& weights, const std::string& name,
                             std::span<const std::int64_t> shape) {
  const std::span<const float> values = vector_of(weights, name, shape);
  const auto rows = static_cast<std::size_t>(shape[0]);
  return {DataType::float32, std::as_bytes(values).data(), nullptr, rows, values.size() / rows};
}

WeightMatrix rows_of(const WeightMatrix& matrix, std::size_t first, std::size_t count) {
  return {matrix.type,
          matrix.values + first * byte_size(matrix.type, matrix.columns),
          scales_from(matrix, first),
          count,
          matrix.columns,
          matrix.activations};
}

std::span<const float> vector_of(const WeightFile& weights, const std::string& name, std::size_t size) {
  return vector_of(weights, name, std::array{static_cast<std::int64_t>(size)});
}

std::span<const float> vector_of(const WeightFile& weights, const std::string& name,
                                 std::span<const std::int64_t> shape) {
  const Tensor tensor = weights.tensor(name, shape);
  typed(tensor, DataType::float32, 4);
  return tensor.as<float>();
}

}  // namespace internvl
