// The language model: prefill and decode over a paged KV cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/gemm/integer_linear.h"
#include "kernels/gemm/linear.h"
#include "kernels/gemm/weight_matrix.h"
#include "kv_cache/kv_cache.h"
#include "model/decoder_facts.h"
#include "model/experts.h"
#include "runtime/function_ref.h"
#include "runtime/queued_lock.h"
#include "runtime/thread_team.h"
#include "runtime/weight_file.h"

namespace internvl {

struct DecoderOptions {
  std::size_t cache_tokens;  // room of the KV cache, all sequences together
  CacheType cache_type = CacheType::float32;
  std::size_t prefill_chunk = 256;  // tokens that are computed at once; bounds the memory of activations
};

// Computes from the weights where they lie in the file. Activations are fp32; where they meet int8 or int4
// weights they are quantised to int8 (QuantisedRows) and multiplied as integers; where they meet bf16 weights
// they are rounded to bf16 if the processor multiplies that (activations_for() in kernels/gemm/linear.h).
//
// The logits after a token depend on the tokens before it and on nothing else, bit for bit: not on how they
// were cut into calls or chunks, on the sequences decoded beside, or on the number of threads. The one
// exception is rope that changes with the length of a sequence (dynamic scaling beyond the trained length,
// longrope beyond the original one), whose angles depend on the length at each call.
//
// One decoder may be used from several threads; they take turns, a decoded token or a layer of a prefill at a
// time. A call that throws leaves every sequence as it was.
class Decoder {
 public:
  // Throws BundleError if a tensor is missing or has another shape or type than the facts ask for.
  Decoder(const DecoderFacts& facts, std::shared_ptr<const WeightFile> weights,
          std::shared_ptr<ThreadTeam> team, const DecoderOptions& options);

  const DecoderFacts& facts() const { return facts_; }
  std::size_t cache_tokens() const { return cache_.tokens(); }
  // Tokens that new sequences can still take: free blocks of the cache.
  std::size_t free_tokens() const { return cache_.free_blocks() * cache_block; }

  SequenceId new_sequence() { return cache_.new_sequence(); }
  SequenceId fork(SequenceId sequence) { return cache_.fork(sequence); }
  void drop(SequenceId sequence) { cache_.drop(sequence); }
  std::size_t length(SequenceId sequence) const { return cache_.length(sequence); }

  // Called between the layers of a prefill, and while it waits for its turn, with the number of tokens that
  // all layers have seen: often the same one. What it throws ends the prefill. It must not prefill; tokens
  // may be decoded meanwhile.
  using Progress = std::function<void(std::size_t done)>;

  // Appends embeddings [n, hidden_size], n >= 1, to a sequence. Writes the logits after the last of them
  // [1, vocab_size], or after each [n, vocab_size].
  // Throws CacheFullError if there is no room, PromptError if the sequence is unknown or in use.
  void prefill(SequenceId sequence, const float* embeddings, std::size_t n, bool all_logits, float* logits,
               const Progress& progress = {});

  // Appends tokens[i] to sequences[i], all different, and writes the logits after each [count, vocab_size].
  // Throws CacheFullError, PromptError.
  void decode(std::span<const SequenceId> sequences, std::span<const std::int64_t> tokens, float* logits);

  // Looks up embeddings [tokens, hidden_size]. Where `image_token` stands, the next row of
  // features [feature_rows, hidden_size] is put in its place.
  // Throws PromptError if a token is outside of the vocabulary or the rows do not match the places.
  void embed(std::span<const std::int64_t> tokens, const float* features, std::size_t feature_rows,
             std::int64_t image_token, float* embeddings) const;

 private:
  struct Layer {
    const float* attention_norm;
    WeightMatrix qkv;
    const float* qkv_bias;  // null without
    const float* q_norm;    // null without
    const float* k_norm;
    WeightMatrix o_proj;
    const float* mlp_norm;
    WeightMatrix gate_up;  // empty with experts, as the next
    WeightMatrix down;
    ExpertWeights experts;  // empty without
  };

  // Tokens that stand one after the other in one sequence, as rows of the residual stream.
  struct Run {
    std::span<const BlockId> blocks;
    std::size_t position;  // of the first
    std::size_t count;
    std::size_t row;     // of the first
    std::size_t length;  // of the sequence after the call
  };

  // Query rows that one call of the attention kernel takes: heads of one group at neighbouring positions.
  struct Tile {
    const Run* run;
    std::size_t offset;  // of the first position, in the run
    std::size_t positions;
    std::size_t head;  // the first
    std::size_t heads;
    std::size_t spans;  // of the cache, that the last position sees
  };

  // Activations of so many rows.
  struct Workspace {
    Workspace(const Decoder& decoder, std::size_t most_rows);

    std::size_t rows;
    LinearWorkspace linear;
    IntegerWorkspace integer;
    QuantisedBuffer quantised;  // [rows, the longest row of a matrix]
    std::optional<ExpertMixture> mixture;
    std::vector<float> hidden;     // [rows, hidden_size], the residual stream
    std::vector<float> normed;     // [rows, hidden_size]
    std::vector<float> qkv;        // [rows, qkv_rows]
    std::vector<float> attention;  // [rows, heads * head_dim]
    std::vector<float> gate_up;    // [rows, 2 * intermediate_size]; none with experts
    std::vector<float> cosines;    // [rows, head_dim / 2]
    std::vector<float> sines;
    std::vector<Tile> tiles;
    std::vector<float> span_states;  // of spans that are computed apart
  };

  WeightMatrix matrix(const std::string& name, std::size_t rows, std::size_t columns) const;
  const float* vector(const std::string& name, std::size_t size) const;
  std::vector<Layer> load_layers() const;
  // What linear() makes of a row at most.
  std::size_t linear_row_bytes() const;
  void look_up(std::int64_t token, float* out) const;
  // Takes the first `rows` rows of the residual stream through all layers and appends their keys and values.
  // Afterwards only the rows from `needed` on are right: the last layer computes no others. Calls `pause`
  // between layers.
  void forward(Workspace& space, std::span<const Run> runs, std::size_t rows, std::size_t needed,
               FunctionRef<void()> pause);
  // Adds to rows of the residual stream what the MLP makes of them.
  void feed_forward(Workspace& space, const Layer& layer, std::size_t rows, float* stream);
  void normalise(const float* weight, const float* x, std::size_t rows, float* out);
  // y = w times the normalised rows of x.
  void multiply_normalised(Workspace& space, const float* weight, const float* x, std::size_t rows,
                           const WeightMatrix& w, const float* bias, float* y);
  void rotate_and_store(Workspace& space, const Layer& layer, std::size_t index, std::span<const Run> runs,
                        std::size_t rows);
  void attend(Workspace& space, std::size_t layer, std::span<const Run> runs);
  void attend_span(const Workspace& space, std::size_t layer, const Tile& tile, std::size_t span,
                   const AttentionState& state) const;
  void finish_tile(Workspace& space, const Tile& tile, const AttentionState& state) const;
  void multiply(Workspace& space, const float* x, std::size_t x_stride, std::size_t rows,
                const WeightMatrix& w, const float* bias, bool accumulate, float* y);
  // Quantises a row for a matrix, if that holds integers.
  void quantise_for(Workspace& space, const WeightMatrix& w, const float* x, std::size_t row) const;
  // Of rows that quantise_for() has quantised.
  void multiply_quantised(Workspace& space, std::size_t rows, const WeightMatrix& w, const float* bias,
                          bool accumulate, float* y);
  // Logits of `rows` rows of the residual stream from row `first` on.
  void project(Workspace& space, std::size_t first, std::size_t rows, float* logits);

  DecoderFacts facts_;
  std::shared_ptr<const WeightFile> weights_;
  std::shared_ptr<ThreadTeam> team_;
  InstructionSet set_;
  WeightMatrix embedding_;
  WeightMatrix head_;
  const float* norm_;
  std::vector<Layer> layers_;
  RopeTable rope_;  // whoever has the team's stretch may use it
  KvCache cache_;

  // Each has its own, so that tokens can be decoded between the layers of a prefill.
  Workspace prefill_;
  QueuedLock prefill_turn_;
  Workspace decode_;  // of whoever has the team's stretch
};

}  // namespace internvl
