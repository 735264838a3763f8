#include "bundle/tensor_table.h"

#include <array>
#include <initializer_list>
#include <utility>

#include "model/flash_facts.h"
#include "model/tensor_names.h"
#include "runtime/weight_file.h"

namespace internvl {
namespace {

std::size_t elements_of(const std::vector<std::int64_t>& shape) {
  std::size_t elements = 1;
  for (const std::int64_t extent : shape) elements *= static_cast<std::size_t>(extent);
  return elements;
}

DataType float_type(Precision precision) {
  if (precision == Precision::fp16) return DataType::float16;
  return precision == Precision::bf16 ? DataType::bfloat16 : DataType::float32;
}

// Collects the tensors of a model.
class Table {
 public:
  explicit Table(const Manifest& manifest) : manifest_(manifest) {}

  std::vector<TensorSpec> take() && { return std::move(specs_); }

  void add_vision() {
    const VisionFacts& vision = manifest_.vision;
    const std::size_t c = vision.hidden_size;
    const bool norm_bias = vision.norm == NormKind::layer_norm;
    part_ = ModelPart::vit;
    vector(kClassEmbedding, {c});
    vector(kPositionEmbedding, {vision.tokens(), c});
    add(kPatchEmbedding, {c, 3, vision.patch_size, vision.patch_size}, TensorKind::table);
    vector(kPatchEmbeddingBias, {c});
    for (std::size_t i = 0; i < vision.layers; ++i) {
      const auto name = [i](std::string_view module) { return vision_layer(i, module); };
      norm(name("norm1"), c, norm_bias);
      linear(name("qkv"), 3 * c, c, vision.qkv_bias);
      if (vision.qk_norm) {
        norm(name("q_norm"), c, false);
        norm(name("k_norm"), c, false);
      }
      linear(name("proj"), c, c, true);
      vector(name("ls1"), {c});
      norm(name("norm2"), c, norm_bias);
      linear(name("fc1"), vision.intermediate_size, c, true);
      linear(name("fc2"), c, vision.intermediate_size, true);
      vector(name("ls2"), {c});
    }
  }

  void add_projector() {
    const VisionFacts& vision = manifest_.vision;
    part_ = ModelPart::projector;
    norm("projector.norm", vision.block_channels(), true);
    linear("projector.fc1", vision.output_size, vision.block_channels(), true);
    linear("projector.fc2", vision.output_size, vision.output_size, true);
  }

  void add_flash(const FlashFacts& flash) {
    const std::size_t c = manifest_.vision.hidden_size;
    const std::size_t h = manifest_.vision.output_size;
    part_ = ModelPart::projector;
    vector(kFlashQuery, {c});
    for (const std::string i : {"1", "2"}) {
      linear("flash.attention" + i + ".qkv", 3 * c, c, true);
      linear("flash.attention" + i + ".proj", c, c, true);
      norm("flash.norm" + i, c, true);
    }
    for (std::size_t i = 0; i < kFlashBlocks; ++i) {
      const std::string block = "flash.blocks." + std::to_string(i);
      linear(block + ".fc1", 4 * c, c, true);
      linear(block + ".fc2", c, 4 * c, true);
      norm(block + ".norm", c, true);
    }
    norm("flash.gate_norm", c, true);
    linear("flash.gate", 2, c, true);
    const std::size_t inner = c * flash.downsample * flash.downsample;
    norm("flash.projector.norm", inner, true);
    linear("flash.projector.fc1", 2 * h, inner, true);
    linear("flash.projector.fc2", 2 * h, 2 * h, true);
    linear("flash.projector.fc3", h, 2 * h, true);
  }

  void add_language_model() {
    const DecoderFacts& llm = manifest_.llm.decoder;
    const std::size_t h = llm.hidden_size;
    const std::size_t inner = llm.intermediate_size;
    part_ = ModelPart::embedding;
    add(kEmbedTokens, {llm.vocab_size, h}, TensorKind::table);
    part_ = ModelPart::llm;
    for (std::size_t i = 0; i < llm.layers; ++i) {
      const auto name = [i](std::string_view module) { return language_layer(i, module); };
      norm(name("attention_norm"), h, false);
      // Queries, keys and values in one matrix, gate and up in another: one pass over the input each.
      linear(name("qkv"), llm.qkv_rows(), h, llm.qkv_bias);
      if (llm.qk_norm) {
        norm(name("q_norm"), llm.head_dim, false);
        norm(name("k_norm"), llm.head_dim, false);
      }
      linear(name("o_proj"), h, llm.heads * llm.head_dim, false);
      norm(name("mlp_norm"), h, false);
      if (const std::size_t experts = llm.experts.count; experts == 0) {
        linear(name("gate_up"), 2 * inner, h, false);
        linear(name("down"), h, inner, false);
      } else {
        vector(name("router.weight"), {experts, h});
        linear(name("experts.gate_up"), experts * 2 * inner, h, false);
        linear(name("experts.down"), experts * h, inner, false);
      }
    }
    vector(kLanguageNorm, {h});
    const PartPrecision& precision = manifest_.precision;
    if (!manifest_.llm.tied_embeddings || precision.llm != precision.embedding) {
      add(kLanguageHead, {llm.vocab_size, h}, TensorKind::matrix);
    }
  }

 private:
  void add(std::string_view name, std::initializer_list<std::size_t> shape, TensorKind kind) {
    TensorSpec& spec = specs_.emplace_back(TensorSpec{std::string(name), {}, kind, part_});
    for (const std::size_t extent : shape) spec.shape.push_back(static_cast<std::int64_t>(extent));
    spec.precision = precision_of(spec);
  }
  void vector(std::string_view name, std::initializer_list<std::size_t> shape) {
    add(name, shape, TensorKind::vector);
  }
  void norm(const std::string& name, std::size_t size, bool bias) {
    vector(name + ".weight", {size});
    if (bias) vector(name + ".bias", {size});
  }
  void linear(const std::string& name, std::size_t out, std::size_t in, bool bias) {
    add(name + ".weight", {out, in}, TensorKind::matrix);
    if (bias) vector(name + ".bias", {out});
  }

  Precision precision_of(const TensorSpec& spec) const {
    if (spec.kind == TensorKind::vector) return Precision::fp32;
    const PartPrecision& precision = manifest_.precision;
    const std::array parts = {precision.vit, precision.projector, precision.llm, precision.embedding};
    const auto exception = precision.exceptions.find(spec.name);
    const Precision chosen = exception != precision.exceptions.end()
                                 ? exception->second
                                 : parts[static_cast<std::size_t>(spec.part)];
    const bool integers = chosen == Precision::int8 || chosen == Precision::int4;
    return spec.kind == TensorKind::table && integers ? Precision::bf16 : chosen;
  }

  const Manifest& manifest_;
  ModelPart part_{};
  std::vector<TensorSpec> specs_;
};

}  // namespace

std::string_view name_of(ModelPart part) {
  constexpr std::array<std::string_view, 4> kNames = {"vit", "projector", "llm", "embedding"};
  return kNames[static_cast<std::size_t>(part)];
}

std::string_view name_of(TensorKind kind) {
  constexpr std::array<std::string_view, 3> kNames = {"matrix", "table", "vector"};
  return kNames[static_cast<std::size_t>(kind)];
}

std::uint64_t StoredTensor::bytes() const { return byte_size(type, elements_of(shape)); }

std::string_view StoredTensor::header_type() const {
  switch (type) {
    case DataType::float32:
      return "F32";
    case DataType::float16:
      return "F16";
    case DataType::bfloat16:
      return "BF16";
    case DataType::int8:
      return "I8";
    case DataType::int4:
      return "U8";
  }
  return "";
}

std::vector<std::int64_t> StoredTensor::header_shape() const {
  std::vector<std::int64_t> found = shape;
  if (type == DataType::int4) found.back() /= 2;
  return found;
}

std::vector<StoredTensor> TensorSpec::stored() const {
  if (precision == Precision::int8) {
    return {{name, DataType::int8, shape}, {name_of_scales(name), DataType::float32, {shape[0]}}};
  }
  if (precision == Precision::int4) {
    const std::int64_t blocks = shape[1] / static_cast<std::int64_t>(int4_block);
    return {{name, DataType::int4, shape}, {name_of_scales(name), DataType::float16, {shape[0], blocks}}};
  }
  return {{name, float_type(precision), shape}};
}

std::vector<TensorSpec> tensor_specs(const Manifest& manifest) {
  Table table(manifest);
  table.add_vision();
  table.add_projector();
  if (manifest.flash) table.add_flash(*manifest.flash);
  table.add_language_model();
  return std::move(table).take();
}

}  // namespace internvl
