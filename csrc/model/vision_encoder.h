// The vision side: InternViT, pixel shuffle and projector, from normalised tiles to image features.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/gemm/integer_linear.h"
#include "kernels/gemm/linear.h"
#include "kernels/gemm/weight_matrix.h"
#include "model/vision_facts.h"
#include "runtime/function_ref.h"
#include "runtime/queued_lock.h"
#include "runtime/thread_team.h"
#include "runtime/weight_file.h"

namespace internvl {

// Activations that a vision encoder may keep, unless a single tile needs more. Two tiles of InternViT-300M
// take 50 to 67 MB, by how its matrices are stored; on more at once they are no faster.
inline constexpr std::size_t default_activation_bytes = std::size_t{70} << 20U;

// How the matrices of the vision side are stored: rows that they multiply are rounded to int8 or bf16, beside
// which the fp32 ones are kept.
struct VisionStorage {
  bool integers = false;             // of some
  std::size_t bfloat16_columns = 0;  // of the widest that is bf16
};

// How many tiles are computed at once, and what their activations take.
struct VisionBatch {
  std::size_t tiles;
  std::size_t bytes;
};

// As many tiles as fit into `activation_bytes`, at least one and at most 64.
VisionBatch vision_batch(const VisionFacts& facts, std::size_t activation_bytes, const VisionStorage& storage,
                         InstructionSet set = instruction_set());

// Wall-clock milliseconds of one call; the pixel shuffle counts to the projector.
struct VisionTimes {
  double vit_ms = 0;
  double projector_ms = 0;
};

// Computes from the weights where they lie in the file. Activations are fp32; where a matrix is int8 they are
// rounded to int8 for it, with a scale for each token, and the products are summed in integers; where it is
// bf16 they are rounded to bf16 if the processor multiplies that (activations_for() in
// kernels/gemm/linear.h), and so is what attention computes from beside either (attends_in_bfloat16() in
// kernels/attention/bfloat16_attention.h).
//
// The features of a tile depend on its pixels alone, bit for bit: not on the other tiles, on how they are cut
// into batches, or on the number of threads.
//
// One encoder may be used from several threads; they take turns, batch by batch. Others that share its team
// of threads come to their turn between layers.
class VisionEncoder {
 public:
  // Throws BundleError if a tensor is missing or has another shape or type than the facts ask for, or the
  // facts are impossible; DeviceError if there is no memory for a batch.
  VisionEncoder(const VisionFacts& facts, std::shared_ptr<const WeightFile> weights,
                std::shared_ptr<ThreadTeam> team, std::size_t activation_bytes = default_activation_bytes);

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
  struct Norm {
    const float* weight;
    const float* bias;  // null in an RMSNorm
  };

  struct Linear {
    WeightMatrix weight;
    const float* bias;  // null without
  };

  struct Layer {
    Norm norm1;
    Linear qkv;
    const float* q_norm;  // null without
    const float* k_norm;
    Linear proj;
    const float* layer_scale1;
    Norm norm2;
    Linear fc1;
    Linear fc2;
    const float* layer_scale2;
  };

  Norm load_norm(const std::string& name, std::size_t size, bool bias) const;
  Linear load_linear(const std::string& name, std::size_t rows, std::size_t columns, bool bias) const;
  std::vector<Layer> load_layers() const;
  // Throws BundleError if an integer matrix is wider than sums are exact, or the patch embedding is one.
  VisionStorage storage() const;

  // Calls `pause` between layers.
  void encode_batch(const float* pixel_values, std::size_t tiles, float* features, VisionTimes& times,
                    FunctionRef<void()> pause);
  // Takes tiles through the tower: hidden_ [tiles, tokens, hidden_size].
  void embed(const float* pixel_values, std::size_t tiles);
  void forward(const Layer& layer, std::size_t tiles);
  // From hidden_ to normed_, for `next`.
  void normalise(const Norm& norm, std::size_t rows, const Linear& next);
  void normalise_queries_and_keys(const Layer& layer, std::size_t rows);
  // From queries, keys and values in wide_ to normed_.
  void attend(const Layer& layer, std::size_t tiles);
  // Some rows of one head of one tile.
  struct HeadRows {
    const float* queries;     // the tile's first, at a distance of 3 * hidden_size; keys and values beside it
    float* out;               // alike, at a distance of hidden_size
    std::size_t first, last;  // of the tile's rows
  };
  // `memory`: of heads_, for one thread.
  void attend_exact(const HeadRows& head, float* memory) const;
  void attend_rounded(const HeadRows& head, float* memory) const;
  // Blocks of patches from hidden_ to normed_ [tiles, image_tokens, block_channels], normalised, for the
  // projector.
  void shuffle(std::size_t tiles);
  // y (+)= epilogue(layer(x)). An integer layer takes x from quantised_, where it must stand by then.
  void multiply(const float* x, std::size_t rows, const Linear& layer, float* y,
                const Epilogue& epilogue = {}, bool accumulate = false);
  // Puts rows of x into quantised_, if `next` is an integer layer.
  void quantise(const float* x, std::size_t rows, const Linear& next);
  void quantise_row(const float* x, std::size_t row, const Linear& next);

  VisionFacts facts_;
  std::shared_ptr<const WeightFile> weights_;
  std::shared_ptr<ThreadTeam> team_;
  InstructionSet set_;
  const float* class_embedding_;
  const float* position_embedding_;  // [tokens, hidden_size]
  Linear patch_embedding_;
  std::vector<Layer> layers_;
  Norm projector_norm_;
  Linear projector_fc1_;
  Linear projector_fc2_;
  VisionStorage storage_;
  VisionBatch batch_;
  QueuedLock turn_;  // of the activations

  // Activations of one batch. They are touched when a tile is encoded and not before: a model that sees no
  // pictures does not pay for them.
  LinearWorkspace linear_;
  IntegerWorkspace integer_;
  QuantisedBuffer quantised_;        // the rows that an integer layer computes from
  std::unique_ptr<float[]> hidden_;  // [tiles, tokens, hidden_size], the residual stream
  std::unique_ptr<float[]> normed_;  // the same size: normalised rows, attention's result, shuffled blocks
  std::unique_ptr<float[]> wide_;    // patches; queries, keys and values; the MLP's inner rows
  std::unique_ptr<float[]> heads_;   // [threads] keys and values of one head of one tile, in blocks
};

}  // namespace internvl
