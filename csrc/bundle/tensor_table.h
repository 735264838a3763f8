// The names and shapes of a bundle's tensors: one table for the exporter, the graphs and the engines.
//
// A matrix is the weight of a linear layer, [out, in], stored in its part's precision as one of
//
//   fp32, fp16, bf16   NAME of that type
//   int8               NAME int8 [N, K] and NAME.scales fp32 [N]
//   int4               NAME int4 [N, K] and NAME.scales fp16 [N, K/32]; stored as bytes [N, K/2], the low
//                      nibble first, two's complement
//
// The experts of a layer are one matrix each for gate_up and down, one expert's rows below another's. Their
// router is [experts, hidden] and fp32: its choices decide more than any one weight.
//
// A table, which is the embedding table or the patch embedding, is never of integers. Every other tensor is a
// vector and fp32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "bundle/manifest.h"
#include "runtime/data_type.h"

namespace internvl {

enum class ModelPart : std::uint8_t { vit, projector, llm, embedding };
enum class TensorKind : std::uint8_t { matrix, table, vector };

std::string_view name_of(ModelPart part);
std::string_view name_of(TensorKind kind);

// A tensor as it stands in the weights file; the shape is in elements.
struct StoredTensor {
  std::string name;
  DataType type;
  std::vector<std::int64_t> shape;

  std::uint64_t bytes() const;
  // As the safetensors header says it: two int4 elements are a byte.
  std::string_view header_type() const;
  std::vector<std::int64_t> header_shape() const;
};

// A tensor of the model, as it is computed with.
struct TensorSpec {
  std::string name;
  std::vector<std::int64_t> shape;
  TensorKind kind;
  ModelPart part;
  Precision precision = Precision::fp32;  // by the manifest

  // Itself, and its scales if it is quantised.
  std::vector<StoredTensor> stored() const;
};

// Every tensor of a model, in the order in which it is computed with.
std::vector<TensorSpec> tensor_specs(const Manifest& manifest);

}  // namespace internvl
