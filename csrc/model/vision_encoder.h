// The vision side: InternViT, pixel shuffle and projector, from normalised tiles to image features.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model/vision_facts.h"
#include "ops/ops.h"
#include "runtime/function_ref.h"
#include "runtime/queued_lock.h"
#include "runtime/weight_file.h"

namespace internvl {

// Activations that a vision encoder may keep, unless a single tile needs more. Two tiles of InternViT-300M
// take 50 to 67 MB, by how its matrices are stored; on more at once they are no faster.
inline constexpr std::size_t default_activation_bytes = std::size_t{70} << 20U;

// How the matrices of the vision side are stored: what rows need beside them.
struct VisionStorage {
  bool floats = false;               // some matrices of the layers or the projector are fp32 or fp16
  bool integers = false;             // some are int8 or int4
  std::size_t bfloat16_columns = 0;  // of the widest that is bf16
};

// How many tiles are computed at once, and what their activations take.
struct VisionBatch {
  std::size_t tiles;
  std::size_t bytes;
};

// As many tiles as fit into `activation_bytes`, at least one and at most 64.
VisionBatch vision_batch(const VisionFacts& facts, std::size_t activation_bytes, const VisionStorage& storage,
                         const Device& device);

// Wall-clock milliseconds of one call; the pixel shuffle counts to the projector.
struct VisionTimes {
  double vit_ms = 0;
  double projector_ms = 0;
};

// The features of a tile depend on its pixels alone, bit for bit: not on the other tiles, on how they are cut
// into batches, or on the number of threads.
//
// One encoder may be used from several threads; they take turns, batch by batch. Others that share its device
// come to their turn between layers.
class VisionEncoder {
 public:
  // Throws BundleError if a tensor is missing or has another shape or type than the facts ask for, or the
  // facts are impossible; DeviceError if there is no memory for a batch.
  VisionEncoder(const VisionFacts& facts, std::shared_ptr<const WeightFile> weights,
                std::shared_ptr<const Device> device,
                std::size_t activation_bytes = default_activation_bytes);

  const VisionFacts& facts() const { return facts_; }
  const VisionBatch& batch() const { return batch_; }

  // Called between layers, and while the call waits for its turn, with the number of tiles done so far: often
  // the same one. What it throws ends the call. It must not call the encoder.
  using Progress = std::function<void(std::size_t done)>;

  // Encodes normalised tiles [tiles, 3, image_size, image_size] into
  // features [tiles, image_tokens, output_size].
  VisionTimes encode(const float* pixel_values, std::size_t tiles, float* features,
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

  Vector load_vector(const std::string& name, std::size_t size);
  Norm load_norm(const std::string& name, NormKind kind, std::size_t size, float eps);
  Linear load_linear(const std::string& name, std::size_t rows, std::size_t columns, bool bias = true);
  PatchEmbedding load_patch_embedding();
  std::vector<Layer> load_layers();
  VisionStorage storage() const;

  // Calls `pause` between layers.
  void encode_batch(const float* pixel_values, std::size_t tiles, float* features, VisionTimes& times,
                    FunctionRef<void()> pause);
  void forward(const Layer& layer, std::size_t tiles);

  VisionFacts facts_;
  std::shared_ptr<const WeightFile> weights_;
  std::shared_ptr<const Device> device_;
  std::unique_ptr<DeviceModel> model_;
  PatchEmbedding patch_embedding_;
  std::vector<Layer> layers_;
  Norm projector_norm_;
  Linear projector_fc1_;
  Linear projector_fc2_;
  VisionBatch batch_;
  QueuedLock turn_;  // at what follows

  // Operations and activations of one batch.
  std::unique_ptr<Operations> ops_;
  Buffer stream_;     // [tiles * tokens, hidden_size], the residual stream
  Buffer attention_;  // the same size
  Buffer wide_;       // what is below, and what is between two matrices, one after the other
  Buffer patches_;    // [tiles * patches, patch_values]
  Buffer qkv_;        // [tiles * tokens, 3 * hidden_size]
};

}  // namespace internvl
