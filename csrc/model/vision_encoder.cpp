#include "model/vision_encoder.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <mutex>
#include <new>
#include <utility>

#include "kernels/attention/attention.h"
#include "kernels/attention/bfloat16_attention.h"
#include "kernels/norm/norm.h"
#include "model/weights.h"
#include "runtime/error.h"

namespace internvl {
namespace {

// Rows that a thread takes at a time in the small steps between the matrices.
constexpr std::size_t row_grain = 8;
// Pieces of attention for each thread: enough that threads end together.
constexpr std::size_t pieces_per_thread = 4;
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
  if (facts.head_dim() % 8 != 0 || facts.head_dim() > most_head_dim) {
    throw BundleError("the vision tower's head_dim is " + std::to_string(facts.head_dim()) +
                      "; the native engine takes multiples of 8 up to " + std::to_string(most_head_dim) +
                      ". Use engine=\"onnxruntime\".");
  }
  return facts;
}

// Floats of wide_ for one tile: whichever of its uses is the largest.
std::size_t wide_elements(const VisionFacts& facts) {
  return std::max({facts.patches() * facts.patch_values(), facts.tokens() * 3 * facts.hidden_size,
                   facts.tokens() * facts.intermediate_size, facts.image_tokens() * facts.output_size});
}

std::size_t stream_elements(const VisionFacts& facts) { return facts.tokens() * facts.hidden_size; }

std::size_t blocks_of(std::size_t tokens) { return (tokens + cache_block - 1) / cache_block; }

// Elements of the longest row that a matrix of the layers or the projector computes from.
std::size_t longest_row(const VisionFacts& facts) {
  return std::max({facts.hidden_size, facts.intermediate_size, facts.block_channels(), facts.output_size});
}

// Bytes of the longest row that is rounded to bf16.
std::size_t rounded_row_bytes(const VisionStorage& storage, InstructionSet set) {
  const WeightMatrix widest{DataType::bfloat16, nullptr, nullptr, 0, storage.bfloat16_columns};
  return LinearWorkspace::row_bytes(widest, activations_for(widest.type, set));
}

// Floats that hold the keys and values of one head of one tile, in fp32 or in bf16.
std::size_t head_elements(const VisionFacts& facts) {
  return std::max(blocks_of(facts.tokens()) * attention_block_elements(facts.head_dim()),
                  bfloat16_attention_elements(facts.tokens(), facts.head_dim()) / 2);
}

// Memory that is not touched yet.
std::unique_ptr<float[]> reserved(std::size_t elements) {
  try {
    return std::make_unique_for_overwrite<float[]>(elements);
  } catch (const std::bad_alloc&) {
    throw DeviceError("there is no memory for the " + std::to_string(elements * sizeof(float) >> 20U) +
                      " MB of activations that a batch of tiles needs. Free memory, or use a smaller model.");
  }
}

double ms_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
}

// Patches [patches, 3 * side * side] of one tile [3, size, size], each in the order of a convolution's
// weights; those of the rows [begin, end) of the grid.
void patchify(const float* pixels, std::size_t size, std::size_t side, std::size_t begin, std::size_t end,
              float* patches) {
  const std::size_t grid = size / side;
  for (std::size_t row = begin; row < end; ++row) {
    for (std::size_t channel = 0; channel < 3; ++channel) {
      for (std::size_t y = 0; y < side; ++y) {
        const float* line = pixels + (channel * size + row * side + y) * size;
        float* out = patches + row * grid * 3 * side * side + (channel * side + y) * side;
        for (std::size_t column = 0; column < grid; ++column) {
          std::memcpy(out + column * 3 * side * side, line + column * side, side * sizeof(float));
        }
      }
    }
  }
}

}  // namespace

VisionBatch vision_batch(const VisionFacts& facts, std::size_t activation_bytes, const VisionStorage& storage,
                         InstructionSet set) {
  const std::size_t row = (storage.integers ? QuantisedBuffer::row_bytes(longest_row(facts)) : 0) +
                          rounded_row_bytes(storage, set);
  const std::size_t tile =
      (2 * stream_elements(facts) + wide_elements(facts)) * sizeof(float) + facts.tokens() * row;
  const std::size_t tiles = std::clamp(activation_bytes / tile, std::size_t{1}, most_batch_tiles);
  return {tiles, tiles * tile};
}

VisionEncoder::VisionEncoder(const VisionFacts& facts, std::shared_ptr<const WeightFile> weights,
                             std::shared_ptr<ThreadTeam> team, std::size_t activation_bytes)
    : facts_(checked(facts)),
      weights_(std::move(weights)),
      team_(std::move(team)),
      set_(instruction_set()),
      class_embedding_(vector_of(*weights_, "vit.class_embedding", facts.hidden_size)),
      position_embedding_(vector_of(*weights_, "vit.position_embedding",
                                    std::array{static_cast<std::int64_t>(facts.tokens()),
                                               static_cast<std::int64_t>(facts.hidden_size)})),
      patch_embedding_{matrix_of(*weights_, "vit.patch_embedding.weight",
                                 std::array{static_cast<std::int64_t>(facts.hidden_size), std::int64_t{3},
                                            static_cast<std::int64_t>(facts.patch_size),
                                            static_cast<std::int64_t>(facts.patch_size)}),
                       vector_of(*weights_, "vit.patch_embedding.bias", facts.hidden_size)},
      layers_(load_layers()),
      projector_norm_(load_norm("projector.norm", facts.block_channels(), true)),
      projector_fc1_(load_linear("projector.fc1", facts.output_size, facts.block_channels(), true)),
      projector_fc2_(load_linear("projector.fc2", facts.output_size, facts.output_size, true)),
      storage_(storage()),
      batch_(vision_batch(facts, activation_bytes, storage_, set_)),
      linear_(*team_, batch_.tiles * facts.tokens(), rounded_row_bytes(storage_, set_)),
      integer_(*team_, storage_.integers ? batch_.tiles * facts.tokens() : 0),
      quantised_(storage_.integers ? batch_.tiles * facts.tokens() : 0, longest_row(facts)),
      hidden_(reserved(batch_.tiles * stream_elements(facts))),
      normed_(reserved(batch_.tiles * stream_elements(facts))),
      wide_(reserved(batch_.tiles * wide_elements(facts))),
      heads_(reserved(static_cast<std::size_t>(team_->size()) * head_elements(facts))) {}

VisionEncoder::Norm VisionEncoder::load_norm(const std::string& name, std::size_t size, bool bias) const {
  return {vector_of(*weights_, name + ".weight", size),
          bias ? vector_of(*weights_, name + ".bias", size) : nullptr};
}

VisionEncoder::Linear VisionEncoder::load_linear(const std::string& name, std::size_t rows,
                                                 std::size_t columns, bool bias) const {
  return {matrix_of(*weights_, name + ".weight", rows, columns),
          bias ? vector_of(*weights_, name + ".bias", rows) : nullptr};
}

std::vector<VisionEncoder::Layer> VisionEncoder::load_layers() const {
  const std::size_t hidden = facts_.hidden_size;
  const std::size_t inner = facts_.intermediate_size;
  const bool norm_bias = facts_.norm == VisionNorm::layer_norm;
  std::vector<Layer> layers;
  for (std::size_t i = 0; i < facts_.layers; ++i) {
    const std::string prefix = "vit.layers." + std::to_string(i) + ".";
    layers.push_back({
        .norm1 = load_norm(prefix + "norm1", hidden, norm_bias),
        .qkv = load_linear(prefix + "qkv", 3 * hidden, hidden, facts_.qkv_bias),
        .q_norm = facts_.qk_norm ? vector_of(*weights_, prefix + "q_norm.weight", hidden) : nullptr,
        .k_norm = facts_.qk_norm ? vector_of(*weights_, prefix + "k_norm.weight", hidden) : nullptr,
        .proj = load_linear(prefix + "proj", hidden, hidden, true),
        .layer_scale1 = vector_of(*weights_, prefix + "ls1", hidden),
        .norm2 = load_norm(prefix + "norm2", hidden, norm_bias),
        .fc1 = load_linear(prefix + "fc1", inner, hidden, true),
        .fc2 = load_linear(prefix + "fc2", hidden, inner, true),
        .layer_scale2 = vector_of(*weights_, prefix + "ls2", hidden),
    });
  }
  return layers;
}

VisionStorage VisionEncoder::storage() const {
  if (is_integer(patch_embedding_.weight.type)) {
    throw BundleError("tensor 'vit.patch_embedding.weight' is " +
                      std::string(name_of(patch_embedding_.weight.type)) +
                      ", which a patch embedding never is. Export the bundle again.");
  }
  VisionStorage found;
  const auto add = [&found](const Linear& linear) {
    const WeightMatrix& w = linear.weight;
    found.integers = found.integers || is_integer(w.type);
    if (w.type == DataType::bfloat16) found.bfloat16_columns = std::max(found.bfloat16_columns, w.columns);
  };
  add(patch_embedding_);
  for (const Layer& layer : layers_) {
    for (const Linear* linear : {&layer.qkv, &layer.proj, &layer.fc1, &layer.fc2}) add(*linear);
  }
  add(projector_fc1_);
  add(projector_fc2_);
  if (found.integers && longest_row(facts_) > most_integer_columns) {
    throw BundleError("the vision side's matrices have rows of " + std::to_string(longest_row(facts_)) +
                      " elements, and some are integers; the native engine takes at most " +
                      std::to_string(most_integer_columns) + ". Export with vision=\"bf16\".");
  }
  return found;
}

VisionTimes VisionEncoder::encode(const float* pixel_values, std::size_t tiles, float* features,
                                  const Progress& progress) {
  team_->check_process();
  VisionTimes times;
  for (std::size_t done = 0; done < tiles;) {
    const std::size_t count = std::min(batch_.tiles, tiles - done);
    const auto watch = [&] {
      if (progress) progress(done);
    };
    {
      const QueuedTurn mine(turn_, watch);
      std::unique_lock stretch(team_->stretch());
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
  embed(pixel_values, tiles);
  for (const Layer& layer : layers_) {
    pause();
    forward(layer, tiles);
  }
  times.vit_ms += ms_since(begin);
  pause();
  const auto middle = std::chrono::steady_clock::now();
  const std::size_t rows = tiles * facts_.image_tokens();
  shuffle(tiles);
  multiply(normed_.get(), rows, projector_fc1_, wide_.get(), {.gelu = true});
  quantise(wide_.get(), rows, projector_fc2_);
  multiply(wide_.get(), rows, projector_fc2_, features);
  times.projector_ms += ms_since(middle);
}

void VisionEncoder::embed(const float* pixel_values, std::size_t tiles) {
  const std::size_t hidden = facts_.hidden_size;
  const std::size_t grid = facts_.grid();
  const std::size_t patch_elements = facts_.patches() * facts_.patch_values();
  team_->for_each_range(tiles * grid, 1, [&](std::size_t begin, std::size_t) {
    const std::size_t tile = begin / grid;
    const std::size_t row = begin % grid;
    patchify(pixel_values + tile * facts_.tile_pixels(), facts_.image_size, facts_.patch_size, row, row + 1,
             &wide_[tile * patch_elements]);
    // The positions stand there already when the patches are added to them.
    float* stream = &hidden_[tile * stream_elements(facts_)];
    const std::size_t first = (1 + row * grid) * hidden;
    std::copy_n(position_embedding_ + first, grid * hidden, stream + first);
    if (row == 0) {
      for (std::size_t i = 0; i < hidden; ++i) stream[i] = class_embedding_[i] + position_embedding_[i];
    }
  });
  for (std::size_t tile = 0; tile < tiles; ++tile) {
    multiply(&wide_[tile * patch_elements], facts_.patches(), patch_embedding_,
             &hidden_[tile * stream_elements(facts_) + hidden], {}, true);
  }
}

void VisionEncoder::forward(const Layer& layer, std::size_t tiles) {
  const std::size_t rows = tiles * facts_.tokens();
  normalise(layer.norm1, rows, layer.qkv);
  multiply(normed_.get(), rows, layer.qkv, wide_.get());
  if (facts_.qk_norm) normalise_queries_and_keys(layer, rows);
  attend(layer, tiles);
  quantise(normed_.get(), rows, layer.proj);
  multiply(normed_.get(), rows, layer.proj, hidden_.get(), {.layer_scale = layer.layer_scale1}, true);
  normalise(layer.norm2, rows, layer.fc1);
  multiply(normed_.get(), rows, layer.fc1, wide_.get(), {.gelu = true});
  quantise(wide_.get(), rows, layer.fc2);
  multiply(wide_.get(), rows, layer.fc2, hidden_.get(), {.layer_scale = layer.layer_scale2}, true);
}

void VisionEncoder::normalise(const Norm& norm, std::size_t rows, const Linear& next) {
  const NormKernels& kernels = norm_kernels(set_);
  const std::size_t n = facts_.hidden_size;
  team_->for_each_range(rows, row_grain, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      const float* x = &hidden_[row * n];
      float* out = &normed_[row * n];
      if (facts_.norm == VisionNorm::layer_norm) {
        kernels.layer_norm(x, norm.weight, norm.bias, n, facts_.norm_eps, out);
      } else {
        kernels.rms_norm(x, norm.weight, n, facts_.norm_eps, out);
      }
      quantise_row(out, row, next);
    }
  });
}

void VisionEncoder::normalise_queries_and_keys(const Layer& layer, std::size_t rows) {
  const NormKernels& kernels = norm_kernels(set_);
  const std::size_t n = facts_.hidden_size;
  team_->for_each_range(rows, row_grain, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      float* queries = &wide_[row * 3 * n];
      float* keys = queries + n;
      kernels.rms_norm(queries, layer.q_norm, n, facts_.norm_eps, queries);
      kernels.rms_norm(keys, layer.k_norm, n, facts_.norm_eps, keys);
    }
  });
}

void VisionEncoder::attend(const Layer& layer, std::size_t tiles) {
  const bool rounded = attends_in_bfloat16(layer.qkv.weight.type, set_);
  const std::size_t group = rounded ? bfloat16_attention_rows : attention_rows;
  const std::size_t d = facts_.head_dim();
  const std::size_t tokens = facts_.tokens();
  const std::size_t stride = 3 * facts_.hidden_size;
  // A piece is some rows of one head of one tile. Whoever takes it lays the head's keys and values out for
  // itself, so that they are in its cache: a hundredth of the work of a whole head.
  const std::size_t heads = std::max(tiles * facts_.heads, std::size_t{1});
  const auto threads = static_cast<std::size_t>(team_->size());
  const std::size_t groups = (tokens + group - 1) / group;
  const std::size_t parts =
      std::clamp((pieces_per_thread * threads + heads - 1) / heads, std::size_t{1}, groups);
  const std::size_t part_rows = (groups + parts - 1) / parts * group;
  std::atomic<std::size_t> next{0};
  team_->run([&](int thread) {
    float* memory = &heads_[static_cast<std::size_t>(thread) * head_elements(facts_)];
    for (;;) {
      const std::size_t piece = next.fetch_add(1, std::memory_order_relaxed);
      if (piece >= heads * parts) return;
      const std::size_t first = piece % parts * part_rows;
      if (first >= tokens) continue;
      const std::size_t tile = piece / parts / facts_.heads;
      const std::size_t head = piece / parts % facts_.heads;
      const HeadRows rows{&wide_[tile * tokens * stride + head * d],
                          &normed_[tile * tokens * facts_.hidden_size + head * d], first,
                          std::min(first + part_rows, tokens)};
      if (rounded) {
        attend_rounded(rows, memory);
      } else {
        attend_exact(rows, memory);
      }
    }
  });
}

void VisionEncoder::attend_exact(const HeadRows& head, float* memory) const {
  const AttentionKernels& kernels = attention_kernels(set_);
  const std::size_t d = facts_.head_dim();
  const std::size_t tokens = facts_.tokens();
  const std::size_t stride = 3 * facts_.hidden_size;
  const float* keys = head.queries + facts_.hidden_size;
  const float* values = keys + facts_.hidden_size;
  std::vector<const std::byte*> blocks(blocks_of(tokens));
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    const std::size_t key = b * cache_block;
    float* place = memory + b * attention_block_elements(d);
    kernels.pack(keys + key * stride, values + key * stride, stride, std::min(cache_block, tokens - key), d,
                 place);
    blocks[b] = reinterpret_cast<const std::byte*>(place);
  }
  std::vector<float> state_memory(attention_rows * (2 + d));
  const AttentionState state{state_memory.data(), &state_memory[attention_rows],
                             &state_memory[2 * attention_rows]};
  std::array<std::size_t, attention_rows> visible{};
  visible.fill(tokens);
  for (std::size_t row = head.first; row < head.last; row += attention_rows) {
    const std::size_t rows = std::min(attention_rows, head.last - row);
    std::array<const float*, attention_rows> queries{};
    std::array<float*, attention_rows> out{};
    for (std::size_t r = 0; r < rows; ++r) {
      queries[r] = head.queries + (row + r) * stride;
      out[r] = head.out + (row + r) * facts_.hidden_size;
    }
    const QueryRows job{rows, queries.data(), visible.data(), d, 1.0F / std::sqrt(static_cast<float>(d))};
    kernels.attend_float32(job, blocks.data(), 0, blocks.size(), state);
    kernels.finish(rows, d, state, out.data());
  }
}

void VisionEncoder::attend_rounded(const HeadRows& head, float* memory) const {
  const BFloat16AttentionKernels& kernels = bfloat16_attention_kernels(set_);
  const std::size_t d = facts_.head_dim();
  const std::size_t tokens = facts_.tokens();
  const std::size_t stride = 3 * facts_.hidden_size;
  const float* keys = head.queries + facts_.hidden_size;
  auto* packed = reinterpret_cast<BFloat16*>(memory);
  kernels.pack(keys, keys + facts_.hidden_size, stride, tokens, d, packed);
  for (std::size_t row = head.first; row < head.last; row += bfloat16_attention_rows) {
    kernels.attend(head.queries + row * stride, stride, std::min(bfloat16_attention_rows, head.last - row),
                   packed, tokens, d, 1.0F / std::sqrt(static_cast<float>(d)),
                   head.out + row * facts_.hidden_size, facts_.hidden_size);
  }
}

void VisionEncoder::shuffle(std::size_t tiles) {
  const NormKernels& kernels = norm_kernels(set_);
  const PixelShuffleShape shape{tiles, facts_.grid(), facts_.hidden_size, facts_.downsample};
  team_->for_each_range(tiles * facts_.image_tokens(), row_grain, [&](std::size_t begin, std::size_t end) {
    for (std::size_t token = begin; token < end; ++token) {
      float* out = &normed_[token * facts_.block_channels()];
      pixel_shuffle_token(hidden_.get(), shape, facts_.pixel_shuffle, token, out);
      kernels.layer_norm(out, projector_norm_.weight, projector_norm_.bias, facts_.block_channels(),
                         facts_.projector_norm_eps, out);
      quantise_row(out, token, projector_fc1_);
    }
  });
}

void VisionEncoder::multiply(const float* x, std::size_t rows, const Linear& layer, float* y,
                             const Epilogue& epilogue, bool accumulate) {
  const WeightMatrix& w = layer.weight;
  const LinearRows job{x, w.columns, rows, layer.bias, accumulate, y, w.rows};
  if (is_integer(w.type)) {
    linear(quantised_.rows(rows, w.columns, scale_group(w.type)), job, w, *team_, integer_, set_, epilogue);
  } else {
    linear(job, w, *team_, linear_, set_, epilogue);
  }
}

void VisionEncoder::quantise(const float* x, std::size_t rows, const Linear& next) {
  if (!is_integer(next.weight.type)) return;
  team_->for_each_range(rows, row_grain, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) quantise_row(x + row * next.weight.columns, row, next);
  });
}

void VisionEncoder::quantise_row(const float* x, std::size_t row, const Linear& next) {
  if (!is_integer(next.weight.type)) return;
  quantised_.quantise(x, next.weight.columns, scale_group(next.weight.type), row, set_);
}

}  // namespace internvl
