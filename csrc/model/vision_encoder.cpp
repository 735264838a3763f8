#include "model/vision_encoder.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <mutex>
#include <utility>
#include <variant>

#include "model/tensor_names.h"
#include "ops/weights.h"
#include "runtime/error.h"
#include "runtime/rounding.h"

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

// Elements of activations for one tile.
struct TileElements {
  std::size_t stream;
  std::size_t attention;
  std::size_t wide;         // whichever of its uses is the largest
  std::size_t router;       // that are the router's own
  std::size_t read;         // of the rows that one matrix reads, at most
  std::size_t longest_row;  // that a matrix of layers, projector or router computes from

  std::size_t buffers() const { return stream + attention + wide + router; }
};

TileElements tile_elements(const VisionFacts& facts, const std::optional<FlashFacts>& flash) {
  const RouterNeeds router = flash ? router_needs(facts, *flash) : RouterNeeds{};
  const std::size_t stream = facts.tokens() * facts.hidden_size;
  const std::size_t patches = facts.patches() * facts.patch_values();
  const std::size_t inner = facts.tokens() * facts.intermediate_size;
  const std::size_t projected = facts.image_tokens() * facts.output_size;
  return {
      .stream = stream,
      .attention = std::max(stream, router.inputs),
      .wide = std::max({patches, 3 * stream, inner, projected, router.wide}),
      .router = router.own,
      .read = std::max(
          {patches, stream, inner, facts.image_tokens() * facts.block_channels(), projected, router.read}),
      .longest_row = std::max({facts.hidden_size, facts.intermediate_size, facts.block_channels(),
                               facts.output_size, router.longest_row}),
  };
}

double ms_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

VisionBatch vision_batch(const VisionFacts& facts, const std::optional<FlashFacts>& flash,
                         std::size_t activation_bytes, const VisionStorage& storage, const Device& device) {
  const TileElements elements = tile_elements(facts, flash);
  const std::size_t row = device.row_bytes({.made_columns = facts.hidden_size,
                                            .read_columns = divide_up(elements.read, facts.tokens()),
                                            .floats = storage.floats,
                                            .bfloat16_columns = storage.bfloat16_columns,
                                            .integer_columns = storage.integers ? elements.longest_row : 0});
  const std::size_t tile = elements.buffers() * sizeof(float) + facts.tokens() * row;
  const std::size_t tiles = std::clamp(activation_bytes / tile, std::size_t{1}, most_batch_tiles);
  return {tiles, tiles * tile};
}

VisionEncoder::VisionEncoder(const VisionFacts& facts, const std::optional<FlashFacts>& flash,
                             const Normalisation& normalisation, std::shared_ptr<const WeightFile> weights,
                             std::shared_ptr<const Device> device, std::size_t activation_bytes)
    : facts_(checked(facts)),
      device_(std::move(device)),
      model_(device_->model()),
      weights_(std::move(weights), *model_),
      patch_embedding_(load_patch_embedding(normalisation)),
      layers_(load_layers()),
      projector_norm_(weights_.norm("projector.norm", NormKind::layer_norm, facts.block_channels(),
                                    facts.projector_norm_eps)),
      projector_fc1_(weights_.linear("projector.fc1", facts.output_size, facts.block_channels())),
      projector_fc2_(weights_.linear("projector.fc2", facts.output_size, facts.output_size)) {
  if (flash) router_.emplace(facts_, *flash, weights_);
  batch_ = vision_batch(facts_, flash, activation_bytes, storage(), *device_);
  const TileElements elements = tile_elements(facts_, flash);
  const std::size_t tiles = batch_.tiles;
  const std::size_t tokens = tiles * facts_.tokens();
  ops_ = model_->operations({.rows = tokens,
                             .made_elements = tiles * elements.stream,
                             .tower = TowerShape{facts_.tokens(), facts_.heads, facts_.head_dim()},
                             .pooling = router_ ? std::optional(router_->pooling()) : std::nullopt,
                             .read_elements = tiles * elements.read});
  stream_ = ops_->buffer(tokens, facts_.hidden_size);
  attention_ = ops_->buffer(tiles, elements.attention);
  wide_ = ops_->buffer(tiles, elements.wide);
  patches_ = ops_->view(wide_, tiles * facts_.patches(), facts_.patch_values());
  qkv_ = ops_->view(wide_, tokens, 3 * facts_.hidden_size);
  if (router_) router_memory_ = router_->memory(*ops_, tiles, stream_, attention_, wide_);
}

PatchEmbedding VisionEncoder::load_patch_embedding(const Normalisation& normalisation) {
  const auto hidden = static_cast<std::int64_t>(facts_.hidden_size);
  const auto patch = static_cast<std::int64_t>(facts_.patch_size);
  const std::string name(kPatchEmbedding);
  const WeightMatrix weight =
      matrix_of(weights_.file(), name, std::array{hidden, std::int64_t{3}, patch, patch});
  if (is_integer(weight.type)) {
    throw BundleError("tensor '" + name + "' is " + std::string(name_of(weight.type)) +
                      ", which a patch embedding never is. Export the bundle again.");
  }
  return {{model_->load(weight), weights_.vector(std::string(kPatchEmbeddingBias), facts_.hidden_size)},
          weights_.vector(std::string(kClassEmbedding), facts_.hidden_size),
          model_->load(vector_of(weights_.file(), std::string(kPositionEmbedding),
                                 std::array{static_cast<std::int64_t>(facts_.tokens()), hidden})),
          facts_.image_size,
          facts_.patch_size,
          normalisation};
}

std::vector<VisionEncoder::Layer> VisionEncoder::load_layers() {
  const std::size_t hidden = facts_.hidden_size;
  const std::size_t inner = facts_.intermediate_size;
  const auto head_norm = [&](const std::string& name) {
    return facts_.qk_norm ? Norm{NormKind::rms_norm, weights_.vector(name, hidden), {}, facts_.norm_eps}
                          : Norm{};
  };
  std::vector<Layer> layers;
  for (std::size_t i = 0; i < facts_.layers; ++i) {
    const std::string prefix = vision_layer(i, "");
    layers.push_back({
        .norm1 = weights_.norm(prefix + "norm1", facts_.norm, hidden, facts_.norm_eps),
        .qkv = weights_.linear(prefix + "qkv", 3 * hidden, hidden, facts_.qkv_bias),
        .q_norm = head_norm(prefix + "q_norm.weight"),
        .k_norm = head_norm(prefix + "k_norm.weight"),
        .proj = weights_.linear(prefix + "proj", hidden, hidden),
        .layer_scale1 = weights_.vector(prefix + "ls1", hidden),
        .norm2 = weights_.norm(prefix + "norm2", facts_.norm, hidden, facts_.norm_eps),
        .fc1 = weights_.linear(prefix + "fc1", inner, hidden),
        .fc2 = weights_.linear(prefix + "fc2", hidden, inner),
        .layer_scale2 = weights_.vector(prefix + "ls2", hidden),
    });
  }
  return layers;
}

VisionStorage VisionEncoder::storage() const {
  VisionStorage found = weights_.storage();
  if (const Matrix& w = patch_embedding_.patches.weight; w.type == DataType::bfloat16) {
    found.bfloat16_columns = std::max(found.bfloat16_columns, w.columns);
  }
  return found;
}

VisionTimes VisionEncoder::encode(const TilePixels& pixels, std::size_t tiles, const TileOutput& output,
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
      encode_batch(tiles_from(pixels, done, count), count, from(output, done), times, [&] {
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

TilePixels VisionEncoder::tiles_from(const TilePixels& pixels, std::size_t tile, std::size_t count) const {
  return std::visit(
      [&](auto all) {
        return TilePixels(all.subspan(tile * facts_.tile_pixels(), count * facts_.tile_pixels()));
      },
      pixels);
}

TileOutput VisionEncoder::from(const TileOutput& output, std::size_t tile) const {
  TileOutput rest = output;
  rest.features += tile * facts_.image_tokens() * facts_.output_size;
  if (rest.scores != nullptr) rest.scores += tile;
  if (rest.compressed != nullptr) rest.compressed += tile * compressed_elements();
  return rest;
}

std::size_t VisionEncoder::compressed_elements() const {
  return router_ ? router_->facts().tokens(facts_) * facts_.output_size : 0;
}

void VisionEncoder::encode_batch(const TilePixels& pixels, std::size_t tiles, const TileOutput& output,
                                 VisionTimes& times, FunctionRef<void()> pause) {
  const auto begin = std::chrono::steady_clock::now();
  ops_->embed_patches(pixels, tiles, patch_embedding_, patches_, stream_);
  for (const Layer& layer : layers_) {
    pause();
    forward(layer, tiles, pause);
  }
  times.vit_ms += ms_since(begin);
  pause();
  const auto middle = std::chrono::steady_clock::now();
  const RowRange rows{0, tiles * facts_.image_tokens()};
  const PixelShuffleShape shape{tiles, facts_.grid(), facts_.hidden_size, facts_.downsample};
  const Buffer projected = ops_->operand(wide_, rows.count, facts_.output_size, projector_fc2_.weight);
  ops_->shuffle_norm_linear(stream_, shape, facts_.pixel_shuffle, projector_norm_, projector_fc1_,
                            {.gelu = true}, projected);
  ops_->linear(projected, rows, projector_fc2_, {}, {output.features, rows.count * facts_.output_size});
  if (router_ && output.scores != nullptr) {
    router_->judge(*ops_, router_memory_, tiles, pause, {output.scores, tiles});
  }
  if (router_ && output.compressed != nullptr) {
    pause();
    router_->compress(*ops_, router_memory_, tiles, {output.compressed, tiles * compressed_elements()});
  }
  times.projector_ms += ms_since(middle);
}

void VisionEncoder::forward(const Layer& layer, std::size_t tiles, FunctionRef<void()> pause) {
  const RowRange rows{0, tiles * facts_.tokens()};
  ops_->norm_linear(stream_, rows, layer.norm1, layer.qkv, {}, qkv_);
  if (facts_.qk_norm) ops_->norm_queries_and_keys(qkv_, rows, layer.q_norm, layer.k_norm);
  const Buffer attended = ops_->operand(attention_, rows.count, facts_.hidden_size, layer.proj.weight);
  ops_->attend_tiles(qkv_, tiles, layer.qkv.weight.type, attended);
  ops_->linear(attended, rows, layer.proj, {.layer_scale = layer.layer_scale1, .accumulate = true}, stream_);
  pause();
  const Buffer inner = ops_->operand(wide_, rows.count, facts_.intermediate_size, layer.fc2.weight);
  ops_->norm_linear(stream_, rows, layer.norm2, layer.fc1, {.gelu = true}, inner);
  ops_->linear(inner, rows, layer.fc2, {.layer_scale = layer.layer_scale2, .accumulate = true}, stream_);
}

}  // namespace internvl
