// The weights of layers, as views into the mapped file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "kernels/matmul/weight_matrix.h"
#include "runtime/weight_file.h"

namespace internvl {

// The weight [rows, columns] of a linear layer, in whatever precision it is stored.
// Throws BundleError if the tensor or its scales are missing, or of another shape or type.
WeightMatrix matrix_of(const WeightFile& weights, const std::string& name, std::size_t rows,
                       std::size_t columns);

// The same for a tensor of more extents, of which all but the first are columns: a convolution whose patches
// do not overlap is a linear layer.
WeightMatrix matrix_of(const WeightFile& weights, const std::string& name,
                       std::span<const std::int64_t> shape);

// The same for a tensor that is fp32 in every bundle.
WeightMatrix float_matrix_of(const WeightFile& weights, const std::string& name,
                             std::span<const std::int64_t> shape);

// Rows [first, first + count) of a matrix, where it lies.
WeightMatrix rows_of(const WeightMatrix& matrix, std::size_t first, std::size_t count);

// A vector of fp32, or a table read as one.
// Throws BundleError if the tensor is missing, or of another shape or type.
std::span<const float> vector_of(const WeightFile& weights, const std::string& name, std::size_t size);
std::span<const float> vector_of(const WeightFile& weights, const std::string& name,
                                 std::span<const std::int64_t> shape);

}  // namespace internvl
