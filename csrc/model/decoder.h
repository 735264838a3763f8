// The language model: prefill and decode over a paged KV cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kv_cache/ledger.h"
#include "model/decoder_facts.h"
#include "ops/cache_type.h"
#include "ops/ops.h"
#include "runtime/function_ref.h"
#include "runtime/queued_lock.h"
#include "runtime/weight_file.h"

namespace internvl {

struct DecoderOptions {
  std::size_t cache_tokens;  // room of the KV cache, all sequences together
  CacheType cache_type = CacheType::float32;
  std::size_t prefill_chunk = 256;  // tokens that are computed at once; bounds the memory of activations
};

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
          std::shared_ptr<const Device> device, const DecoderOptions& options);

  const DecoderFacts& facts() const { return facts_; }
  std::size_t cache_tokens() const { return ledger_.tokens(); }
  std::size_t block_tokens() const { return ledger_.block_tokens(); }
  // Tokens that new sequences can still take: free blocks of the cache.
  std::size_t free_tokens() const { return ledger_.free_blocks() * ledger_.block_tokens(); }

  SequenceId new_sequence() { return ledger_.new_sequence(); }
  // The first `tokens` tokens of a sequence as another one; nothing is copied.
  SequenceId fork(SequenceId sequence, std::size_t tokens) { return ledger_.fork(sequence, tokens); }
  void drop(SequenceId sequence) { ledger_.drop(sequence); }
  std::size_t length(SequenceId sequence) const { return ledger_.length(sequence); }

  // Called between the layers of a prefill, and while it waits for its turn, with the number of tokens that
  // all layers have seen: often the same one. What it throws ends the prefill. It must not prefill; tokens
  // may be decoded meanwhile.
  using Progress = std::function<void(std::size_t done)>;

  // Appends embeddings [n, hidden_size], n >= 1, to a sequence. Writes the logits after the last of them
  // [1, vocab_size], or after each [n, vocab_size].
  // Throws CacheFullError if there is no room, PromptError if the sequence is unknown or in use.
  void prefill(SequenceId sequence, const float* embeddings, std::size_t n, bool all_logits, float* logits,
               const Progress& progress = {});

  // Appends a run of tokens to each of several different sequences: the first counts[0] >= 1 of `tokens` to
  // sequences[0], and so on. Writes the logits after each run [sequences, vocab_size]. Rope changes with the
  // length as if every token were decoded by itself.
  // Throws CacheFullError, PromptError.
  void decode(std::span<const SequenceId> sequences, std::span<const std::int64_t> tokens,
              std::span<const std::size_t> counts, float* logits);
  // Appends tokens[i] alone to sequences[i].
  void decode(std::span<const SequenceId> sequences, std::span<const std::int64_t> tokens, float* logits) {
    decode(sequences, tokens, std::vector<std::size_t>(sequences.size(), 1), logits);
  }

  // Looks up embeddings [tokens, hidden_size]. Where `image_token` stands, the next row of
  // features [feature_rows, hidden_size] is put in its place.
  // Throws PromptError if a token is outside of the vocabulary or the rows do not match the places.
  void embed(std::span<const std::int64_t> tokens, const float* features, std::size_t feature_rows,
             std::int64_t image_token, float* embeddings) const;

 private:
  struct Layer {
    Norm attention_norm;
    Linear qkv;
    Norm q_norm;  // without a weight: none
    Norm k_norm;
    Linear o_proj;
    Norm mlp_norm;
    Matrix gate_up;  // of the MLP, or
    Matrix down;
    Mixture mixture;  // of the experts in its place
  };

  // Operations of so many rows, and their activations.
  struct Workspace {
    Workspace(Decoder& decoder, std::size_t most_rows);

    std::size_t rows;
    std::unique_ptr<Operations> ops;
    Buffer stream;               // [rows, hidden_size], the residual stream
    Buffer qkv;                  // [rows, qkv_rows]
    Buffer attention;            // [rows, heads * head_dim]
    Buffer inner;                // [rows, 2 * intermediate_size]; empty with experts
    std::vector<float> cosines;  // [rows, head_dim / 2]
    std::vector<float> sines;
  };

  // Takes the memory of the cache, and gives the ledger of its blocks.
  Ledger allocate_cache(const DecoderOptions& options);
  Workload workload(std::size_t rows) const;
  bool has_experts() const { return facts_.experts.count > 0; }
  Matrix matrix(const std::string& name, std::size_t rows, std::size_t columns);
  Norm norm(const std::string& name, std::size_t size);
  std::vector<Layer> load_layers();
  void check_token(std::int64_t token) const;
  // Fills the angles of a run of a sequence that has `length` tokens after the call.
  void fill_angles(Workspace& space, const Run& run, std::size_t length);
  // Writes the logits of some rows of the residual stream, in ascending order, [rows, vocab_size].
  void write_logits(Workspace& space, std::span<const std::size_t> rows, float* logits);
  // Takes the first `rows` rows of the residual stream through all layers and appends their keys and values.
  // Afterwards only the rows from `needed` on are right: the last layer computes no others. Calls `pause`
  // between layers.
  void forward(Workspace& space, std::span<const Run> runs, std::size_t rows, std::size_t needed,
               FunctionRef<void()> pause);

  DecoderFacts facts_;
  std::shared_ptr<const WeightFile> weights_;
  std::shared_ptr<const Device> device_;
  std::unique_ptr<DeviceModel> model_;
  Matrix embedding_;
  Matrix head_;
  Norm norm_;
  std::vector<Layer> layers_;
  RopeTable rope_;  // whoever has the device's stretch may use it
  Ledger ledger_;

  // Each has its own, so that tokens can be decoded between the layers of a prefill.
  Workspace prefill_;
  QueuedLock prefill_turn_;
  Workspace decode_;  // of whoever has the device's stretch
};

}  // namespace internvl
