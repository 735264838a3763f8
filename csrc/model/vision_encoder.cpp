#include "model/vision_encoder.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <mutex>
#include <utility>

#include "model/tensor_names.h"
#include "ops/weights.h"
#include "runtime/error.h"

namespace internvl {
namespace {

constexpr std::size_t most_batch_tiles = 64;

VisionFacts checked(const VisionFacts& facts) {
  const bool possible = facts.hidden_size > 0 && facts.layers > 0 && facts.heads > 0 &&
                        facts.intermediate_size > 0 && facts.patch_size > 0 && facts.image_size > 0 &&
                        facts.downsample > 0 && facts.output_size > 0 &&
                        facts.hidden_size % facts.heads == 0 && facts.image_size % facts.patch_size == 0 &&
                        facts.grid() % facts.downsample == 0;
  if (!possible) {
    throw BundleError(
        "the manifest describes an impossible vision tower: every size must be positive, the channels a "
        "multiple of the heads, the tile a multiple of the patch and its side a multiple of the pixel "
        "shuffle's block. Export the bundle again.");
  }
  return facts;
}

// Elements of wide_ for one tile: whichever of its uses is the largest.
std::size_t wide_elements(const VisionFacts& facts) {
  return std::max({facts.patches() * facts.patch_values(), facts.tokens() * 3 * facts.hidden_size,
                   facts.tokens() * facts.intermediate_size, facts.image_tokens() * facts.output_size});
}

std::size_t stream_elements(const VisionFacts& facts) { return facts.tokens() * facts.hidden_size; }

// Elements of the longest row that a matrix of the layers or the projector computes from.
std::size_t longest_row(const VisionFacts& facts) {
  return std::max({facts.hidden_size, facts.intermediate_size, facts.block_channels(), facts.output_size});
}

double ms_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

VisionBatch vision_batch(const VisionFacts& facts, std::size_t activation_bytes, const VisionStorage& storage,
                         const Device& device) {
  const std::size_t row = device.row_bytes({.made_columns = facts.hidden_size,
                                            .floats = storage.floats,
                                            .bfloat16_columns = storage.bfloat16_columns,
                                            .integer_columns = storage.integers ? longest_row(facts) : 0});
  const std::size_t tile =
      (2 * stream_elements(facts) + wide_elements(facts)) * sizeof(float) + facts.tokens() * row;
  const std::size_t tiles = std::clamp(activation_bytes / tile, std::size_t{1}, most_batch_tiles);
  return {tiles, tiles * tile};
}

VisionEncoder::VisionEncoder(const VisionFacts& facts, std::shared_ptr<const WeightFile> weights,
                             std::shared_ptr<const Device> device, std::size_t activation_bytes)
    : facts_(checked(facts)),
      weights_(std::move(weights)),
      device_(std::move(device)),
      model_(device_->model()),
      patch_embedding_(load_patch_embedding()),
      layers_(load_layers()),
      projector_norm_(load_norm("projector.norm", NormKind::layer_norm, facts.block_channels(),
                                facts.projector_norm_eps)),
      projector_fc1_(load_linear("projector.fc1", facts.output_size, facts.block_channels())),
      projector_fc2_(load_linear("projector.fc2", facts.output_size, facts.output_size)),
      batch_(vision_batch(facts, activation_bytes, storage(), *device_)),
      ops_(model_->operations({batch_.tiles * facts.tokens(), batch_.tiles * stream_elements(facts),
                               TowerShape{facts.tokens(), facts.heads, facts.head_dim()}})),
      stream_(ops_->buffer(batch_.tiles * facts.tokens(), facts.hidden_size)),
      attention_(ops_->buffer(batch_.tiles * facts.tokens(), facts.hidden_size)),
      wide_(ops_->buffer(batch_.tiles, wide_elements(facts))),
      patches_(ops_->view(wide_, batch_.tiles * facts.patches(), facts.patch_values())),
      qkv_(ops_->view(wide_, batch_.tiles * facts.tokens(), 3 * facts.hidden_size)) {}

Vector VisionEncoder::load_vector(const std::string& name, std::size_t size) {
  return model_->load(vector_of(*weights_, name, size));
}

Norm VisionEncoder::load_norm(const std::string& name, NormKind kind, std::size_t size, float eps) {
  return {kind, load_vector(name + ".weight", size),
          kind == NormKind::layer_norm ? load_vector(name + ".bias", size) : Vector{}, eps};
}

Linear VisionEncoder::load_linear(const std::string& name, std::size_t rows, std::size_t columns, bool bias) {
  WeightMatrix weight = matrix_of(*weights_, name + ".weight", rows, columns);
  // Towers are calibrated: their export smooths the channels that are far above the others, and keeps what
  // one scale a row changes too much out of int8.
  weight.activations = ScaleGroup::row;
  return {model_->load(weight), bias ? load_vector(name + ".bias", rows) : Vector{}};
}

PatchEmbedding VisionEncoder::load_patch_embedding() {
  const auto hidden = static_cast<std::int64_t>(facts_.hidden_size);
  const auto patch = static_cast<std::int64_t>(facts_.patch_size);
  const std::string name(kPatchEmbedding);
  const WeightMatrix weight = matrix_of(*weights_, name, std::array{hidden, std::int64_t{3}, patch, patch});
  if (is_integer(weight.type)) {
    throw BundleError("tensor '" + name + "' is " + std::string(name_of(weight.type)) +
                      ", which a patch embedding never is. Export the bundle again.");
  }
  return {{model_->load(weight), load_vector(std::string(kPatchEmbeddingBias), facts_.hidden_size)},
          load_vector(std::string(kClassEmbedding), facts_.hidden_size),
          model_->load(vector_of(*weights_, std::string(kPositionEmbedding),
                                 std::array{static_cast<std::int64_t>(facts_.tokens()), hidden})),
          facts_.image_size,
          facts_.patch_size};
}

std::vector<VisionEncoder::Layer> VisionEncoder::load_layers() {
  const std::size_t hidden = facts_.hidden_size;
  const std::size_t inner = facts_.intermediate_size;
  const auto head_norm = [&](const std::string& name) {
    return facts_.qk_norm ? Norm{NormKind::rms_norm, load_vector(name, hidden), {}, facts_.norm_eps} : Norm{};
  };
  std::vector<Layer> layers;
  for (std::size_t i = 0; i < facts_.layers; ++i) {
    const std::string prefix = vision_layer(i, "");
    layers.push_back({
        .norm1 = load_norm(prefix + "norm1", facts_.norm, hidden, facts_.norm_eps),
        .qkv = load_linear(prefix + "qkv", 3 * hidden, hidden, facts_.qkv_bias),
        .q_norm = head_norm(prefix + "q_norm.weight"),
        .k_norm = head_norm(prefix + "k_norm.weight"),
        .proj = load_linear(prefix + "proj", hidden, hidden),
        .layer_scale1 = load_vector(prefix + "ls1", hidden),
        .norm2 = load_norm(prefix + "norm2", facts_.norm, hidden, facts_.norm_eps),
        .fc1 = load_linear(prefix + "fc1", inner, hidden),
        .fc2 = load_linear(prefix + "fc2", hidden, inner),
        .layer_scale2 = load_vector(prefix + "ls2", hidden),
    });
  }
  return layers;
}

VisionStorage VisionEncoder::storage() const {
  VisionStorage found;
  const auto add = [&found](const Matrix& w) {
    if (is_integer(w.type)) {
      found.integers = true;
    } else if (w.type == DataType::bfloat16) {
      found.bfloat16_columns = std::max(found.bfloat16_columns, w.columns);
    } else {
      found.floats = true;
    }
  };
  if (const Matrix& w = patch_embedding_.patches.weight; w.type == DataType::bfloat16) add(w);
  for (const Layer& layer : layers_) {
    for (const Linear* linear : {&layer.qkv, &layer.proj, &layer.fc1, &layer.fc2}) add(linear->weight);
  }
  add(projector_fc1_.weight);
  add(projector_fc2_.weight);
  return found;
}

VisionTimes VisionEncoder::encode(const float* pixel_values, std::size_t tiles, float* features,
                                  const Progress& progress) {
  device_->check();
  VisionTimes times;
  for (std::size_t done = 0; done < tiles;) {
    const std::size_t count = std::min(batch_.tiles, tiles - done);
    const auto watch = [&] {
      if (progress) progress(done);
    };
    {
      const QueuedTurn mine(turn_, watch);
      std::unique_lock stretch(device_->stretch());
      encode_batch(pixel_values + done * facts_.tile_pixels(), count,
                   features + done * facts_.image_tokens() * facts_.output_size, times, [&] {
                     stretch.unlock();
                     watch();
                     stretch.lock();
                   });
    }
    done += count;
    if (done < tiles) watch();
  }
  return times;
}

void VisionEncoder::encode_batch(const float* pixel_values, std::size_t tiles, float* features,
                                 VisionTimes& times, FunctionRef<void()> pause) {
  const auto begin = std::chrono::steady_clock::now();
  ops_->embed_patches({pixel_values, tiles * facts_.tile_pixels()}, tiles, patch_embedding_, patches_,
                      stream_);
  for (const Layer& layer : layers_) {
    pause();
    forward(layer, tiles);
  }
  times.vit_ms += ms_since(begin);
  pause();
  const auto middle = std::chrono::steady_clock::now();
  const RowRange rows{0, tiles * facts_.image_tokens()};
  const PixelShuffleShape shape{tiles, facts_.grid(), facts_.hidden_size, facts_.downsample};
  const Buffer projected = ops_->operand(wide_, rows.count, facts_.output_size, projector_fc2_.weight);
  ops_->shuffle_norm_linear(stream_, shape, facts_.pixel_shuffle, projector_norm_, projector_fc1_,
                            {.gelu = true}, projected);
  ops_->linear(projected, rows, projector_fc2_, {}, {features, rows.count * facts_.output_size});
  times.projector_ms += ms_since(middle);
}

void VisionEncoder::forward(const Layer& layer, std::size_t tiles) {
  const RowRange rows{0, tiles * facts_.tokens()};
  ops_->norm_linear(stream_, rows, layer.norm1, layer.qkv, {}, qkv_);
  if (facts_.qk_norm) ops_->norm_queries_and_keys(qkv_, rows, layer.q_norm, layer.k_norm);
  const Buffer attended = ops_->operand(attention_, rows.count, facts_.hidden_size, layer.proj.weight);
  ops_->attend_tiles(qkv_, tiles, layer.qkv.weight.type, attended);
  ops_->linear(attended, rows, layer.proj, {.layer_scale = layer.layer_scale1, .accumulate = true}, stream_);
  const Buffer inner = ops_->operand(wide_, rows.count, facts_.intermediate_size, layer.fc2.weight);
  ops_->norm_linear(stream_, rows, layer.norm2, layer.fc1, {.gelu = true}, inner);
  ops_->linear(inner, rows, layer.fc2, {.layer_scale = layer.layer_scale2, .accumulate = true}, stream_);
}

}  // namespace internvl
