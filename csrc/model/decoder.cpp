#include "model/decoder.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <mutex>
#include <utility>

#include "kernels/activation/activation.h"
#include "kernels/attention/attention.h"
#include "kernels/gemm/gemm.h"
#include "kernels/norm/norm.h"
#include "kernels/rope/rope.h"
#include "model/weights.h"
#include "runtime/error.h"

namespace internvl {
namespace {

constexpr std::size_t span_keys = span_blocks * cache_block;
// Rows that a thread takes at a time in the small steps between the matrices.
constexpr std::size_t row_grain = 8;
// Sequences that are decoded as one batch: enough that weights are not what it waits for.
constexpr std::size_t most_decode_rows = 64;

std::size_t longest_row(const DecoderFacts& facts) {
  return std::max({facts.hidden_size, facts.heads * facts.head_dim, facts.intermediate_size});
}

DecoderFacts checked(const DecoderFacts& facts) {
  const bool possible = facts.hidden_size > 0 && facts.layers > 0 && facts.heads > 0 && facts.kv_heads > 0 &&
                        facts.intermediate_size > 0 && facts.vocab_size > 0 &&
                        facts.heads % facts.kv_heads == 0;
  if (!possible) {
    throw BundleError(
        "the manifest describes an impossible language model: every size must be positive and "
        "the heads a multiple of the kv heads. Export the bundle again.");
  }
  if (facts.head_dim == 0 || facts.head_dim % 8 != 0 || facts.head_dim > most_head_dim) {
    throw BundleError("the language model's head_dim is " + std::to_string(facts.head_dim) +
                      "; the native engine takes multiples of 8 up to " + std::to_string(most_head_dim) +
                      ". Use engine=\"onnxruntime\".");
  }
  if (longest_row(facts) > most_integer_columns) {
    throw BundleError("the language model's matrices have rows of " + std::to_string(longest_row(facts)) +
                      " elements; the native engine takes at most " + std::to_string(most_integer_columns) +
                      ". Use engine=\"onnxruntime\".");
  }
  return facts;
}

std::string layer_name(std::size_t layer, const char* name) {
  return "llm.layers." + std::to_string(layer) + "." + name;
}

// In fp32, for which activations are never rounded: rounding might send a token to another expert.
WeightMatrix router_of(const WeightFile& weights, const std::string& name, std::size_t experts,
                       std::size_t hidden) {
  const float* values = vector_of(
      weights, name, std::array{static_cast<std::int64_t>(experts), static_cast<std::int64_t>(hidden)});
  return {DataType::float32, reinterpret_cast<const std::byte*>(values), nullptr, experts, hidden};
}

// Floats of the state of one tile of attention.
constexpr std::size_t state_elements(std::size_t head_dim) { return attention_rows * (2 + head_dim); }

AttentionKernels::Attend attend_for(const AttentionKernels& kernels, CacheType type) {
  switch (type) {
    case CacheType::float32:
      return kernels.attend_float32;
    case CacheType::float16:
      return kernels.attend_float16;
    case CacheType::bfloat16:
      return kernels.attend_bfloat16;
    case CacheType::int8:
      break;
  }
  return kernels.attend_int8;
}

AttentionState state_at(float* memory) {
  return {memory, memory + attention_rows, memory + 2 * attention_rows};
}

}  // namespace

Decoder::Decoder(const DecoderFacts& facts, std::shared_ptr<const WeightFile> weights,
                 std::shared_ptr<ThreadTeam> team, const DecoderOptions& options)
    : facts_(checked(facts)),
      weights_(std::move(weights)),
      team_(std::move(team)),
      set_(instruction_set()),
      embedding_(matrix("llm.embed_tokens.weight", facts.vocab_size, facts.hidden_size)),
      head_(weights_->contains("llm.lm_head.weight")
                ? matrix("llm.lm_head.weight", facts.vocab_size, facts.hidden_size)
                : embedding_),
      norm_(vector("llm.norm.weight", facts.hidden_size)),
      layers_(load_layers()),
      rope_(facts.rope, facts.head_dim),
      cache_(options.cache_type, facts.layers, facts.kv_heads, facts.head_dim, options.cache_tokens, *team_),
      prefill_(*this, std::max<std::size_t>(options.prefill_chunk, 1)),
      decode_(*this, std::min(prefill_.rows, most_decode_rows)) {
  if (embedding_.scales != nullptr) {
    throw BundleError(
        "tensor 'llm.embed_tokens.weight' holds integers; a table is fp32, fp16 or bf16. "
        "Export the bundle again.");
  }
}

Decoder::Workspace::Workspace(const Decoder& decoder, std::size_t most_rows)
    : rows(most_rows),
      linear(*decoder.team_, rows, decoder.linear_row_bytes()),
      integer(*decoder.team_, rows),
      quantised(rows, longest_row(decoder.facts_)),
      hidden(rows * decoder.facts_.hidden_size),
      normed(rows * decoder.facts_.hidden_size),
      qkv(rows * decoder.facts_.qkv_rows()),
      attention(rows * decoder.facts_.heads * decoder.facts_.head_dim),
      gate_up(decoder.facts_.experts.count > 0 ? 0 : rows * 2 * decoder.facts_.intermediate_size),
      cosines(rows * (decoder.facts_.head_dim / 2)),
      sines(cosines.size()) {
  if (decoder.facts_.experts.count > 0) mixture.emplace(decoder.facts_, rows);
}

WeightMatrix Decoder::matrix(const std::string& name, std::size_t rows, std::size_t columns) const {
  return matrix_of(*weights_, name, rows, columns);
}

const float* Decoder::vector(const std::string& name, std::size_t size) const {
  return vector_of(*weights_, name, size);
}

std::vector<Decoder::Layer> Decoder::load_layers() const {
  const std::size_t hidden = facts_.hidden_size;
  const std::size_t inner = facts_.intermediate_size;
  const std::size_t experts = facts_.experts.count;
  std::vector<Layer> layers;
  for (std::size_t i = 0; i < facts_.layers; ++i) {
    const auto name = [&](const char* tensor) { return layer_name(i, tensor); };
    layers.push_back({
        .attention_norm = vector(name("attention_norm.weight"), hidden),
        .qkv = matrix(name("qkv.weight"), facts_.qkv_rows(), hidden),
        .qkv_bias = facts_.qkv_bias ? vector(name("qkv.bias"), facts_.qkv_rows()) : nullptr,
        .q_norm = facts_.qk_norm ? vector(name("q_norm.weight"), facts_.head_dim) : nullptr,
        .k_norm = facts_.qk_norm ? vector(name("k_norm.weight"), facts_.head_dim) : nullptr,
        .o_proj = matrix(name("o_proj.weight"), hidden, facts_.heads * facts_.head_dim),
        .mlp_norm = vector(name("mlp_norm.weight"), hidden),
        .gate_up = experts > 0 ? WeightMatrix{} : matrix(name("gate_up.weight"), 2 * inner, hidden),
        .down = experts > 0 ? WeightMatrix{} : matrix(name("down.weight"), hidden, inner),
        .experts = {},
    });
    if (experts == 0) continue;
    layers.back().experts = {
        .router = router_of(*weights_, name("router.weight"), experts, hidden),
        .gate_up = matrix(name("experts.gate_up.weight"), experts * 2 * inner, hidden),
        .down = matrix(name("experts.down.weight"), experts * hidden, inner),
    };
  }
  return layers;
}

std::size_t Decoder::linear_row_bytes() const {
  const auto bytes = [this](const WeightMatrix& w) {
    return is_integer(w.type) ? 0 : LinearWorkspace::row_bytes(w, activations_for(w.type, set_));
  };
  std::size_t most = bytes(head_);
  for (const Layer& layer : layers_) {
    most = std::max({most, bytes(layer.qkv), bytes(layer.o_proj), bytes(layer.gate_up), bytes(layer.down),
                     bytes(layer.experts.gate_up), bytes(layer.experts.down)});
  }
  return most;
}

void Decoder::prefill(SequenceId sequence, const float* embeddings, std::size_t n, bool all_logits,
                      float* logits, const Progress& progress) {
  if (n == 0) throw PromptError("there are no embeddings to prefill with; expected at least one row.");
  team_->check_process();
  KvCache::Reservation room(cache_, {&sequence, 1}, n);
  const std::size_t start = cache_.length(sequence);
  Workspace& space = prefill_;
  for (std::size_t done = 0; done < n;) {
    const std::size_t count = std::min(space.rows, n - done);
    const auto watch = [&] {
      if (progress) progress(done);
    };
    {
      const QueuedTurn mine(prefill_turn_, watch);
      std::unique_lock stretch(team_->stretch());
      const auto pause = [&] {
        stretch.unlock();
        watch();
        stretch.lock();
      };
      std::copy_n(embeddings + done * facts_.hidden_size, count * facts_.hidden_size, space.hidden.data());
      const Run run{cache_.blocks(sequence), start + done, count, 0, start + n};
      const std::size_t needed = all_logits ? 0 : done + count == n ? count - 1 : count;
      forward(space, {&run, 1}, count, needed, pause);
      if (needed < count) {
        pause();
        project(space, needed, count - needed, logits + (all_logits ? done * facts_.vocab_size : 0));
      }
    }
    done += count;
    if (done < n) watch();
  }
  room.commit();
}

void Decoder::decode(std::span<const SequenceId> sequences, std::span<const std::int64_t> tokens,
                     float* logits) {
  if (sequences.size() != tokens.size() || sequences.empty()) {
    throw PromptError("there are " + std::to_string(sequences.size()) + " sequences and " +
                      std::to_string(tokens.size()) +
                      " tokens to decode; expected one token for each, and at "
                      "least one.");
  }
  team_->check_process();
  KvCache::Reservation room(cache_, sequences, 1);
  Workspace& space = decode_;
  std::vector<Run> runs;
  for (std::size_t done = 0; done < sequences.size();) {
    const std::size_t count = std::min(space.rows, sequences.size() - done);
    const std::lock_guard stretch(team_->stretch());
    runs.clear();
    for (std::size_t i = 0; i < count; ++i) {
      const SequenceId sequence = sequences[done + i];
      const std::size_t position = cache_.length(sequence);
      look_up(tokens[done + i], space.hidden.data() + i * facts_.hidden_size);
      runs.push_back({cache_.blocks(sequence), position, 1, i, position + 1});
    }
    forward(space, runs, count, 0, [] {});
    project(space, 0, count, logits + done * facts_.vocab_size);
    done += count;
  }
  room.commit();
}

void Decoder::look_up(std::int64_t token, float* out) const {
  if (token < 0 || static_cast<std::uint64_t>(token) >= facts_.vocab_size) {
    throw PromptError("token id " + std::to_string(token) + " is outside of the vocabulary of " +
                      std::to_string(facts_.vocab_size) + ". Use the tokenizer of this bundle.");
  }
  const GemmKernels& kernels = gemm_kernels(set_);
  for (std::size_t k = 0; k < facts_.hidden_size; k += panel_depth) {
    kernels.unpack(embedding_, static_cast<std::size_t>(token), 1, k,
                   std::min(panel_depth, facts_.hidden_size - k), out + k);
  }
}

void Decoder::embed(std::span<const std::int64_t> tokens, const float* features, std::size_t feature_rows,
                    std::int64_t image_token, float* embeddings) const {
  const auto places = static_cast<std::size_t>(std::count(tokens.begin(), tokens.end(), image_token));
  if (places != feature_rows) {
    throw PromptError("the prompt has " + std::to_string(places) + " image context tokens and there are " +
                      std::to_string(feature_rows) +
                      " rows of image features; expected as many. Give every image its place in the prompt.");
  }
  for (const std::int64_t token : tokens) {
    if (token == image_token) {
      std::copy_n(features, facts_.hidden_size, embeddings);
      features += facts_.hidden_size;
    } else {
      look_up(token, embeddings);
    }
    embeddings += facts_.hidden_size;
  }
}

void Decoder::multiply(Workspace& space, const float* x, std::size_t x_stride, std::size_t rows,
                       const WeightMatrix& w, const float* bias, bool accumulate, float* y) {
  if (is_integer(w.type)) {
    team_->for_each_range(rows, row_grain, [&](std::size_t begin, std::size_t end) {
      for (std::size_t row = begin; row < end; ++row) quantise_for(space, w, x + row * x_stride, row);
    });
    multiply_quantised(space, rows, w, bias, accumulate, y);
    return;
  }
  linear({x, x_stride, rows, bias, accumulate, y, w.rows}, w, *team_, space.linear, set_);
}

void Decoder::quantise_for(Workspace& space, const WeightMatrix& w, const float* x, std::size_t row) const {
  if (is_integer(w.type)) space.quantised.quantise(x, w.columns, scale_group(w.type), row, set_);
}

void Decoder::multiply_quantised(Workspace& space, std::size_t rows, const WeightMatrix& w, const float* bias,
                                 bool accumulate, float* y) {
  const LinearRows job{nullptr, 0, rows, bias, accumulate, y, w.rows};
  linear(space.quantised.rows(rows, w.columns, scale_group(w.type)), job, w, *team_, space.integer, set_);
}

void Decoder::multiply_normalised(Workspace& space, const float* weight, const float* x, std::size_t rows,
                                  const WeightMatrix& w, const float* bias, float* y) {
  if (!is_integer(w.type)) {
    normalise(weight, x, rows, space.normed.data());
    multiply(space, space.normed.data(), facts_.hidden_size, rows, w, bias, false, y);
    return;
  }
  const NormKernels& kernels = norm_kernels(set_);
  const std::size_t n = facts_.hidden_size;
  team_->for_each_range(rows, row_grain, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      float* normed = &space.normed[row * n];
      kernels.rms_norm(x + row * n, weight, n, facts_.norm_eps, normed);
      quantise_for(space, w, normed, row);
    }
  });
  multiply_quantised(space, rows, w, bias, false, y);
}

void Decoder::forward(Workspace& space, std::span<const Run> runs, std::size_t rows, std::size_t needed,
                      FunctionRef<void()> pause) {
  const std::size_t hidden = facts_.hidden_size;
  const std::size_t query_size = facts_.heads * facts_.head_dim;
  for (const Run& run : runs) {
    const std::size_t angles = run.row * (facts_.head_dim / 2);
    rope_.fill(run.position, run.count, run.length, &space.cosines[angles], &space.sines[angles]);
  }
  std::vector<Run> needed_runs;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (i > 0) pause();
    const Layer& layer = layers_[i];
    multiply_normalised(space, layer.attention_norm, space.hidden.data(), rows, layer.qkv, layer.qkv_bias,
                        space.qkv.data());
    rotate_and_store(space, layer, i, runs, rows);
    if (needed > 0 && i + 1 == layers_.size()) {
      if (needed == rows) return;
      for (Run run : runs) {
        const std::size_t skip = needed > run.row ? std::min(needed - run.row, run.count) : 0;
        if (skip == run.count) continue;
        run.position += skip;
        run.row += skip;
        run.count -= skip;
        needed_runs.push_back(run);
      }
      runs = needed_runs;
    }
    const std::size_t first = i + 1 == layers_.size() ? needed : 0;
    const std::size_t count = rows - first;
    float* stream = space.hidden.data() + first * hidden;
    attend(space, i, runs);
    multiply(space, space.attention.data() + first * query_size, query_size, count, layer.o_proj, nullptr,
             true, stream);
    feed_forward(space, layer, count, stream);
  }
}

void Decoder::feed_forward(Workspace& space, const Layer& layer, std::size_t rows, float* stream) {
  if (space.mixture) {
    ExpertMixture& mixture = *space.mixture;
    normalise(layer.mlp_norm, stream, rows, space.normed.data());
    const auto one_expert = [&](const float* x, std::size_t x_stride, std::size_t count,
                                const WeightMatrix& w,
                                float* y) { multiply(space, x, x_stride, count, w, nullptr, false, y); };
    mixture.add(layer.experts, space.normed.data(), rows, one_expert, *team_, set_, stream);
    return;
  }
  const std::size_t inner = facts_.intermediate_size;
  const ActivationKernels& activation = activation_kernels(set_);
  multiply_normalised(space, layer.mlp_norm, stream, rows, layer.gate_up, nullptr, space.gate_up.data());
  team_->for_each_range(rows, row_grain, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      float* gate = &space.gate_up[row * 2 * inner];
      activation.silu_multiply(gate, gate + inner, inner, gate);
      quantise_for(space, layer.down, gate, row);
    }
  });
  if (is_integer(layer.down.type)) {
    multiply_quantised(space, rows, layer.down, nullptr, true, stream);
  } else {
    multiply(space, space.gate_up.data(), 2 * inner, rows, layer.down, nullptr, true, stream);
  }
}

void Decoder::normalise(const float* weight, const float* x, std::size_t rows, float* out) {
  const NormKernels& kernels = norm_kernels(set_);
  const std::size_t n = facts_.hidden_size;
  team_->for_each_range(rows, row_grain, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      kernels.rms_norm(x + row * n, weight, n, facts_.norm_eps, out + row * n);
    }
  });
}

void Decoder::rotate_and_store(Workspace& space, const Layer& layer, std::size_t index,
                               std::span<const Run> runs, std::size_t rows) {
  const NormKernels& norms = norm_kernels(set_);
  const RopeKernels& rope = rope_kernels(set_);
  const std::size_t d = facts_.head_dim;
  const std::size_t rotated = facts_.heads + facts_.kv_heads;  // queries and keys lie side by side
  team_->for_each_range(rows, row_grain, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      const Run& run = *std::prev(
          std::upper_bound(runs.begin(), runs.end(), row,
                           [](std::size_t wanted, const Run& other) { return wanted < other.row; }));
      float* qkv = &space.qkv[row * facts_.qkv_rows()];
      if (facts_.qk_norm) {
        for (std::size_t head = 0; head < rotated; ++head) {
          const float* weight = head < facts_.heads ? layer.q_norm : layer.k_norm;
          norms.rms_norm(qkv + head * d, weight, d, facts_.norm_eps, qkv + head * d);
        }
      }
      rope.rotate(qkv, rotated, d, &space.cosines[row * (d / 2)], &space.sines[row * (d / 2)]);
      const std::size_t position = run.position + (row - run.row);
      const float* keys = qkv + facts_.heads * d;
      const float* values = qkv + rotated * d;
      for (std::size_t head = 0; head < facts_.kv_heads; ++head) {
        cache_.write(run.blocks[position / cache_block], position % cache_block, index, head, keys + head * d,
                     values + head * d);
      }
    }
  });
}

void Decoder::attend_span(const Workspace& space, std::size_t layer, const Tile& tile, std::size_t span,
                          const AttentionState& state) const {
  const AttentionKernels& kernels = attention_kernels(set_);
  const std::size_t kv_head = tile.head / (facts_.heads / facts_.kv_heads);
  std::array<const float*, attention_rows> queries{};
  std::array<std::size_t, attention_rows> visible{};
  std::size_t rows = 0;
  for (std::size_t p = 0; p < tile.positions; ++p) {
    const float* row = &space.qkv[(tile.run->row + tile.offset + p) * facts_.qkv_rows()];
    for (std::size_t h = 0; h < tile.heads; ++h) {
      queries[rows] = row + (tile.head + h) * facts_.head_dim;
      visible[rows++] = tile.run->position + tile.offset + p + 1;
    }
  }
  std::array<const std::byte*, span_blocks> blocks{};
  const std::size_t first = span * span_blocks;
  const std::size_t count = std::min(span_blocks, tile.run->blocks.size() - first);
  for (std::size_t b = 0; b < count; ++b)
    blocks[b] = cache_.keys(tile.run->blocks[first + b], layer, kv_head);
  const QueryRows job{rows, queries.data(), visible.data(), facts_.head_dim,
                      1.0F / std::sqrt(static_cast<float>(facts_.head_dim))};
  attend_for(kernels, cache_.type())(job, blocks.data(), first * cache_block, count, state);
}

void Decoder::finish_tile(Workspace& space, const Tile& tile, const AttentionState& state) const {
  std::array<float*, attention_rows> out{};
  std::size_t rows = 0;
  for (std::size_t p = 0; p < tile.positions; ++p) {
    const std::size_t row = tile.run->row + tile.offset + p;
    for (std::size_t h = 0; h < tile.heads; ++h) {
      out[rows++] = &space.attention[(row * facts_.heads + tile.head + h) * facts_.head_dim];
    }
  }
  attention_kernels(set_).finish(rows, facts_.head_dim, state, out.data());
}

void Decoder::attend(Workspace& space, std::size_t layer, std::span<const Run> runs) {
  const AttentionKernels& kernels = attention_kernels(set_);
  const std::size_t group = facts_.heads / facts_.kv_heads;
  const std::size_t heads_at_once = std::min(group, attention_rows);
  const std::size_t positions_at_once = attention_rows / heads_at_once;
  space.tiles.clear();
  std::size_t spans = 0;
  for (const Run& run : runs) {
    for (std::size_t offset = 0; offset < run.count; offset += positions_at_once) {
      const std::size_t positions = std::min(positions_at_once, run.count - offset);
      const std::size_t seen = run.position + offset + positions;
      for (std::size_t kv_head = 0; kv_head < facts_.kv_heads; ++kv_head) {
        for (std::size_t head = 0; head < group; head += heads_at_once) {
          space.tiles.push_back({&run, offset, positions, kv_head * group + head,
                                 std::min(heads_at_once, group - head), (seen + span_keys - 1) / span_keys});
          spans += space.tiles.back().spans;
        }
      }
    }
  }
  const std::size_t elements = state_elements(facts_.head_dim);
  const auto threads = static_cast<std::size_t>(team_->size());
  if (spans == space.tiles.size() || space.tiles.size() >= 4 * threads) {
    team_->for_each_range(space.tiles.size(), 1, [&](std::size_t begin, std::size_t) {
      const Tile& tile = space.tiles[begin];
      float memory[2 * state_elements(most_head_dim)];
      const AttentionState state = state_at(memory);
      const AttentionState next = state_at(memory + elements);
      attend_span(space, layer, tile, 0, state);
      for (std::size_t span = 1; span < tile.spans; ++span) {
        attend_span(space, layer, tile, span, next);
        kernels.merge(tile.positions * tile.heads, facts_.head_dim, state, next);
      }
      finish_tile(space, tile, state);
    });
    return;
  }
  // Few queries over a long cache: the spans of a tile are work for several threads.
  space.span_states.resize(std::max(space.span_states.size(), spans * elements));
  team_->for_each_range(spans, 1, [&](std::size_t begin, std::size_t) {
    std::size_t span = begin;
    std::size_t tile = 0;
    while (span >= space.tiles[tile].spans) span -= space.tiles[tile++].spans;
    attend_span(space, layer, space.tiles[tile], span, state_at(&space.span_states[begin * elements]));
  });
  float* first = space.span_states.data();
  for (const Tile& tile : space.tiles) {
    for (std::size_t span = 1; span < tile.spans; ++span) {
      kernels.merge(tile.positions * tile.heads, facts_.head_dim, state_at(first),
                    state_at(first + span * elements));
    }
    finish_tile(space, tile, state_at(first));
    first += tile.spans * elements;
  }
}

void Decoder::project(Workspace& space, std::size_t first, std::size_t rows, float* logits) {
  multiply_normalised(space, norm_, space.hidden.data() + first * facts_.hidden_size, rows, head_, nullptr,
                      logits);
}

}  // namespace internvl
