// The vision side: InternViT, pixel shuffle and projector, from tiles to image features; and the resolution
// router, of a model that has one.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "model/flash_facts.h"
#include "model/resolution_router.h"
#include "model/vision_facts.h"
#include "model/vision_weights.h"
#include "ops/ops.h"
#include "runtime/function_ref.h"
#include "runtime/queued_lock.h"
#include "runtime/weight_file.h"

namespace internvl {

// Activations that a vision encoder may keep, unless a single tile needs more. Two tiles of InternViT-300M
// take 50 to 67 MB, by how its matrices are stored; on more at once they are no faster.
inline constexpr std::size_t default_activation_bytes = std::size_t{70} << 20U;

// How many tiles are computed at once, and what their activations take.
struct VisionBatch {
  std::size_t tiles;
  std::size_t bytes;
};

// As many tiles as fit into `activation_bytes`, at least one and at most 64.
VisionBatch vision_batch(const VisionFacts& facts, const std::optional<FlashFacts>& flash,
                         std::size_t activation_bytes, const VisionStorage& storage, const Device& device);

// Where results go. Scores and compressed tiles that are null are not computed.
struct TileOutput {
  float* features;              // [tiles, image_tokens, output_size]
  float* compressed = nullptr;  // of a model with a resolution router: [tiles, flash.tokens, output_size]
  float* scores = nullptr;      // alike: [tiles], the probability that a tile can do with fewer tokens
};

// Wall-clock milliseconds of one call; pixel shuffle and router count to the projector.
struct VisionTimes {
  double vit_ms = 0;
  double projector_ms = 0;
};

// What becomes of a tile depends on its pixels alone, bit for bit: not on the other tiles, on how they are
// cut into batches, or on the number of threads.
//
// One encoder may be used from several threads; they take turns, batch by batch. Others that share its device
// come to their turn between layers.
class VisionEncoder {
 public:
  // Throws BundleError if a tensor is missing or has another shape or type than the facts ask for, or the
  // facts are impossible; DeviceError if there is no memory for a batch.
  VisionEncoder(const VisionFacts& facts, const std::optional<FlashFacts>& flash,
                const Normalisation& normalisation, std::shared_ptr<const WeightFile> weights,
                std::shared_ptr<const Device> device,
                std::size_t activation_bytes = default_activation_bytes);

  const VisionFacts& facts() const { return facts_; }
  // Null of a model without a resolution router.
  const FlashFacts* flash() const { return router_ ? &router_->facts() : nullptr; }
  const VisionBatch& batch() const { return batch_; }

  // Called between layers, and while the call waits for its turn, with the number of tiles done so far: often
  // the same one. What it throws ends the call. It must not call the encoder.
  using Progress = std::function<void(std::size_t done)>;

  VisionTimes encode(const TilePixels& pixels, std::size_t tiles, const TileOutput& output,
                     const Progress& progress = {});

 private:
  struct Layer {
    Norm norm1;
    Linear qkv;
    Norm q_norm;  // without a weight: none
    Norm k_norm;
    Linear proj;
    Vector layer_scale1;
    Norm norm2;
    Linear fc1;
    Linear fc2;
    Vector layer_scale2;
  };

  PatchEmbedding load_patch_embedding(const Normalisation& normalisation);
  std::vector<Layer> load_layers();
  VisionStorage storage() const;

  // Calls `pause` between layers, and in the middle of each.
  void encode_batch(const TilePixels& pixels, std::size_t tiles, const TileOutput& output, VisionTimes& times,
                    FunctionRef<void()> pause);
  void forward(const Layer& layer, std::size_t tiles, FunctionRef<void()> pause);
  TilePixels tiles_from(const TilePixels& pixels, std::size_t tile, std::size_t count) const;
  // Where the results of `tile` and the following ones go.
  TileOutput from(const TileOutput& output, std::size_t tile) const;
  std::size_t compressed_elements() const;  // of a tile

  VisionFacts facts_;
  std::shared_ptr<const Device> device_;
  std::unique_ptr<DeviceModel> model_;
  VisionWeights weights_;
  PatchEmbedding patch_embedding_;
  std::vector<Layer> layers_;
  Norm projector_norm_;
  Linear projector_fc1_;
  Linear projector_fc2_;
  std::optional<ResolutionRouter> router_;
  VisionBatch batch_{};
  QueuedLock turn_;  // at what follows

  // Operations and activations of one batch.
  std::unique_ptr<Operations> ops_;
  Buffer stream_{};     // [tiles * tokens, hidden_size], the residual stream
  Buffer attention_{};  // as large, or what the router's projector needs
  Buffer wide_{};       // what is below, and what is between two matrices, one after the other
  Buffer patches_{};    // [tiles * patches, patch_values]
  Buffer qkv_{};        // [tiles * tokens, 3 * hidden_size]
  RouterMemory router_memory_{};
};

}  // namespace internvl
