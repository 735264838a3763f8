#include "model/decoder.h"

#include <algorithm>
#include <array>
#include <mutex>
#include <numeric>
#include <utility>

#include "model/tensor_names.h"
#include "ops/weights.h"
#include "runtime/error.h"
#include "runtime/rounding.h"

namespace internvl {
namespace {

// Sequences that are decoded as one batch: enough that weights are not what it waits for.
constexpr std::size_t most_decode_rows = 64;

DecoderFacts checked(const DecoderFacts& facts) {
  const bool possible = facts.hidden_size > 0 && facts.layers > 0 && facts.heads > 0 && facts.kv_heads > 0 &&
                        facts.intermediate_size > 0 && facts.vocab_size > 0 &&
                        facts.heads % facts.kv_heads == 0;
  if (!possible) {
    throw BundleError(
        "the manifest describes an impossible language model: every size must be positive and "
        "the heads a multiple of the kv heads. Export the bundle again.");
  }
  return facts;
}

}  // namespace

Decoder::Decoder(const DecoderFacts& facts, std::shared_ptr<const WeightFile> weights,
                 std::shared_ptr<const Device> device, const DecoderOptions& options)
    : facts_(checked(facts)),
      weights_(std::move(weights)),
      device_(std::move(device)),
      model_(device_->model()),
      embedding_(matrix(std::string(kEmbedTokens), facts.vocab_size, facts.hidden_size)),
      head_(weights_->contains(kLanguageHead)
                ? matrix(std::string(kLanguageHead), facts.vocab_size, facts.hidden_size)
                : embedding_),
      norm_(norm(std::string(kLanguageNorm), facts.hidden_size)),
      layers_(load_layers()),
      rope_(facts.rope, facts.head_dim),
      ledger_(allocate_cache(options)),
      prefill_(*this, std::max<std::size_t>(options.prefill_chunk, 1)),
      decode_(*this, std::min(prefill_.rows, most_decode_rows)) {
  if (is_integer(embedding_.type)) {
    throw BundleError("tensor '" + std::string(kEmbedTokens) +
                      "' holds integers; a table is fp32, fp16 or bf16. Export the bundle again.");
  }
}

Decoder::Workspace::Workspace(Decoder& decoder, std::size_t most_rows)
    : rows(most_rows),
      ops(decoder.model_->operations(decoder.workload(most_rows))),
      stream(ops->buffer(rows, decoder.facts_.hidden_size)),
      qkv(ops->buffer(rows, decoder.facts_.qkv_rows())),
      attention(ops->buffer(rows, decoder.facts_.heads * decoder.facts_.head_dim)),
      inner(ops->buffer(decoder.has_experts() ? 0 : rows, 2 * decoder.facts_.intermediate_size)),
      cosines(rows * (decoder.facts_.head_dim / 2)),
      sines(cosines.size()) {}

Ledger Decoder::allocate_cache(const DecoderOptions& options) {
  const std::size_t block = device_->block_tokens();
  model_->allocate_cache({options.cache_type, facts_.layers, facts_.heads, facts_.kv_heads, facts_.head_dim,
                          divide_up(options.cache_tokens, block)});
  return {options.cache_tokens, block};
}

Workload Decoder::workload(std::size_t rows) const {
  const std::size_t hidden = facts_.hidden_size;
  const std::size_t inner = facts_.intermediate_size;
  Workload workload{rows, rows * std::max(hidden, inner)};
  if (has_experts()) {
    workload.mixture = {hidden, inner, facts_.experts.count, facts_.experts.chosen, facts_.experts.normalise};
  }
  return workload;
}

Matrix Decoder::matrix(const std::string& name, std::size_t rows, std::size_t columns) {
  return model_->load(matrix_of(*weights_, name, rows, columns));
}

Norm Decoder::norm(const std::string& name, std::size_t size) {
  return {NormKind::rms_norm, model_->load(vector_of(*weights_, name, size)), {}, facts_.norm_eps};
}

std::vector<Decoder::Layer> Decoder::load_layers() {
  const std::size_t hidden = facts_.hidden_size;
  const std::size_t inner = facts_.intermediate_size;
  const std::size_t experts = facts_.experts.count;
  std::vector<Layer> layers;
  for (std::size_t i = 0; i < facts_.layers; ++i) {
    const auto name = [&](const char* tensor) { return language_layer(i, tensor); };
    Layer layer{};
    layer.attention_norm = norm(name("attention_norm.weight"), hidden);
    layer.qkv.weight = matrix(name("qkv.weight"), facts_.qkv_rows(), hidden);
    if (facts_.qkv_bias) {
      layer.qkv.bias = model_->load(vector_of(*weights_, name("qkv.bias"), facts_.qkv_rows()));
    }
    if (facts_.qk_norm) {
      layer.q_norm = norm(name("q_norm.weight"), facts_.head_dim);
      layer.k_norm = norm(name("k_norm.weight"), facts_.head_dim);
    }
    layer.o_proj.weight = matrix(name("o_proj.weight"), hidden, facts_.heads * facts_.head_dim);
    layer.mlp_norm = norm(name("mlp_norm.weight"), hidden);
    if (experts == 0) {
      layer.gate_up = matrix(name("gate_up.weight"), 2 * inner, hidden);
      layer.down = matrix(name("down.weight"), hidden, inner);
    } else {
      const std::array shape{static_cast<std::int64_t>(experts), static_cast<std::int64_t>(hidden)};
      layer.mixture = {model_->load(float_matrix_of(*weights_, name("router.weight"), shape)),
                       matrix(name("experts.gate_up.weight"), experts * 2 * inner, hidden),
                       matrix(name("experts.down.weight"), experts * hidden, inner)};
    }
    layers.push_back(layer);
  }
  return layers;
}

void Decoder::prefill(SequenceId sequence, const float* embeddings, std::size_t n, bool all_logits,
                      float* logits, const Progress& progress) {
  if (n == 0) throw PromptError("there are no embeddings to prefill with; expected at least one row.");
  device_->check();
  Ledger::Reservation room(ledger_, {&sequence, 1}, n);
  model_->copy_blocks(room.copies());
  const std::size_t start = ledger_.length(sequence);
  Workspace& space = prefill_;
  for (std::size_t done = 0; done < n;) {
    const std::size_t count = std::min(space.rows, n - done);
    const auto watch = [&] {
      if (progress) progress(done);
    };
    {
      const QueuedTurn mine(prefill_turn_, watch);
      std::unique_lock stretch(device_->stretch());
      const auto pause = [&] {
        stretch.unlock();
        watch();
        stretch.lock();
      };
      space.ops->write({embeddings + done * facts_.hidden_size, count * facts_.hidden_size}, space.stream, 0);
      const Run run{ledger_.blocks(sequence), start + done, count, 0};
      fill_angles(space, run, start + n);
      const std::size_t needed = all_logits ? 0 : done + count == n ? count - 1 : count;
      forward(space, {&run, 1}, count, needed, pause);
      if (needed < count) {
        pause();
        const std::size_t kept = count - needed;
        space.ops->logits(space.stream, {needed, kept}, norm_, head_,
                          {logits + (all_logits ? done * facts_.vocab_size : 0), kept * facts_.vocab_size});
      }
    }
    done += count;
    if (done < n) watch();
  }
  room.commit();
}

void Decoder::decode(std::span<const SequenceId> sequences, std::span<const std::int64_t> tokens,
                     std::span<const std::size_t> counts, float* logits) {
  const auto possible = [&](std::size_t count) { return count > 0 && count <= tokens.size(); };
  if (sequences.empty() || sequences.size() != counts.size() ||
      !std::all_of(counts.begin(), counts.end(), possible) ||
      std::accumulate(counts.begin(), counts.end(), std::size_t{0}) != tokens.size()) {
    throw PromptError("there are " + std::to_string(sequences.size()) + " sequences and " +
                      std::to_string(tokens.size()) +
                      " tokens to decode; expected at least one sequence, and for each as many tokens as its "
                      "count says: one where there are no counts.");
  }
  device_->check();
  for (const std::int64_t token : tokens) check_token(token);
  Ledger::Reservation room(ledger_, sequences, counts);
  model_->copy_blocks(room.copies());
  Workspace& space = decode_;
  std::vector<Run> runs;
  std::vector<std::size_t> last_rows;  // of the runs that end in this step
  std::size_t current = 0;             // the sequence whose tokens are next, and
  std::size_t appended = 0;            // how many of them came in steps before
  for (std::size_t done = 0; done < tokens.size();) {
    const std::size_t count = std::min(space.rows, tokens.size() - done);
    const std::lock_guard stretch(device_->stretch());
    runs.clear();
    last_rows.clear();
    for (std::size_t row = 0; row < count;) {
      const SequenceId sequence = sequences[current];
      const std::size_t part = std::min(counts[current] - appended, count - row);
      const std::size_t position = ledger_.length(sequence) + appended;
      runs.push_back({ledger_.blocks(sequence), position, part, row});
      for (std::size_t i = 0; i < part; ++i)
        fill_angles(space, {{}, position + i, 1, row + i}, position + i + 1);
      row += part;
      appended += part;
      if (appended == counts[current]) {
        last_rows.push_back(row - 1);
        ++current;
        appended = 0;
      }
    }
    space.ops->embed(embedding_, tokens.subspan(done, count), space.stream, 0);
    forward(space, runs, count, last_rows.empty() ? count : last_rows.front(), [] {});
    write_logits(space, last_rows, logits);
    logits += last_rows.size() * facts_.vocab_size;
    done += count;
  }
  room.commit();
}

void Decoder::write_logits(Workspace& space, std::span<const std::size_t> rows, float* logits) {
  if (rows.empty()) return;
  std::size_t first = rows.front();
  if (rows.back() - first + 1 != rows.size()) {
    // Side by side, they meet the largest matrix of the model once.
    std::vector<float> row(facts_.hidden_size);
    first = 0;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      space.ops->read(space.stream, {rows[i], 1}, row);
      space.ops->write(row, space.stream, i);
    }
  }
  space.ops->logits(space.stream, {first, rows.size()}, norm_, head_,
                    {logits, rows.size() * facts_.vocab_size});
}

void Decoder::check_token(std::int64_t token) const {
  if (token >= 0 && static_cast<std::uint64_t>(token) < facts_.vocab_size) return;
  throw PromptError("token id " + std::to_string(token) + " is outside of the vocabulary of " +
                    std::to_string(facts_.vocab_size) + ". Use the tokenizer of this bundle.");
}

void Decoder::embed(std::span<const std::int64_t> tokens, const float* features, std::size_t feature_rows,
                    std::int64_t image_token, float* embeddings) const {
  const auto places = static_cast<std::size_t>(std::count(tokens.begin(), tokens.end(), image_token));
  if (places != feature_rows) {
    throw PromptError("the prompt has " + std::to_string(places) + " image context tokens and there are " +
                      std::to_string(feature_rows) +
                      " rows of image features; expected as many. Give every image its place in the prompt.");
  }
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] == image_token) {
      std::copy_n(features, facts_.hidden_size, embeddings);
      features += facts_.hidden_size;
    } else {
      check_token(tokens[i]);
      model_->embed(embedding_, tokens.subspan(i, 1), {embeddings, facts_.hidden_size});
    }
    embeddings += facts_.hidden_size;
  }
}

void Decoder::fill_angles(Workspace& space, const Run& run, std::size_t length) {
  const std::size_t first = run.row * (facts_.head_dim / 2);
  rope_.fill(run.position, run.count, length, &space.cosines[first], &space.sines[first]);
}

void Decoder::forward(Workspace& space, std::span<const Run> runs, std::size_t rows, std::size_t needed,
                      FunctionRef<void()> pause) {
  Operations& ops = *space.ops;
  ops.begin_step(runs, space.cosines, space.sines);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (i > 0) pause();
    const Layer& layer = layers_[i];
    ops.norm_linear(space.stream, {0, rows}, layer.attention_norm, layer.qkv, {}, space.qkv);
    ops.rotate_and_append(space.qkv, i, layer.q_norm, layer.k_norm);
    const std::size_t first = i + 1 == layers_.size() ? needed : 0;
    if (first == rows) return;
    const RowRange kept{first, rows - first};
    const Buffer attended = ops.operand(space.attention, rows, space.attention.columns, layer.o_proj.weight);
    ops.attend(space.qkv, i, first, attended);
    ops.linear(attended, kept, layer.o_proj, {.accumulate = true}, space.stream);
    if (has_experts()) {
      ops.mixture(space.stream, kept, layer.mlp_norm, layer.mixture);
    } else {
      ops.gated_mlp(space.stream, kept, layer.mlp_norm, layer.gate_up, layer.down, space.inner);
    }
  }
}

}  // namespace internvl
