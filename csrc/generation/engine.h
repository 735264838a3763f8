// What the generation of answers asks of an engine: the vision encoder and the language model of one bundle.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "generation/cache_room.h"
#include "kv_cache/ledger.h"

namespace internvl {

// What the vision side makes of tiles.
struct EncodedTiles {
  std::vector<float> features;    // [tiles, tokens_per_tile, hidden]
  std::vector<float> compressed;  // [tiles, tokens_per_compressed_tile, hidden]; none without a router
  std::vector<float> scores;      // [tiles], then: the probability that a tile can do with fewer tokens
  double vit_ms = 0.0;
  double projector_ms = 0.0;  // pixel shuffle included
};

// A call that throws leaves every sequence as it was before. Calls come from several threads at once.
//
// Some models choose the frequencies of rotary position embedding by a sequence's length: dynamic NTK beyond
// the trained length, longrope at its original one. As in the authors' code, that is the length after the
// call, for all positions that the call appends, however an engine cuts them into chunks; and keys that are
// in the cache stay as they were rotated. So a prompt is prefilled in one call, and a token that is decoded
// has the frequencies of the sequence that ends with it.
class Engine {
 public:
  // Asked on the way of a long call whether to go on, with how much is done: often as much as before. What it
  // throws ends the call. It must not call the engine.
  using Progress = std::function<void(std::size_t done)>;

  Engine() = default;
  virtual ~Engine() = default;
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  Engine(Engine&&) = delete;
  Engine& operator=(Engine&&) = delete;

  virtual const CacheRoom& cache() const = 0;

  // Encodes tiles, RGB of 8 bits [count, tile_size, tile_size, 3], at least one. The result of a tile does
  // not depend on the others.
  virtual EncodedTiles encode(std::span<const std::uint8_t> tiles, std::size_t count,
                              const Progress& progress) = 0;

  virtual SequenceId new_sequence() = 0;
  // A sequence of the first `tokens` tokens of another, which has at least as many.
  virtual SequenceId fork(SequenceId sequence, std::size_t tokens) = 0;
  virtual void drop(SequenceId sequence) = 0;

  // Appends a prompt [n], n >= 1, to a sequence. Rows of `features` [image tokens, hidden] stand in the
  // places of the image context token. Returns the logits after the last of them [vocab].
  virtual std::vector<float> prefill(SequenceId sequence, std::span<const std::int64_t> ids,
                                     std::span<const float> features, const Progress& progress) = 0;

  // Appends a run of tokens to each of several different sequences: the first counts[0] >= 1 of `tokens` to
  // sequences[0], and so on. A run has the rotary frequencies that its tokens get one by one. Returns the
  // logits after each run [sequences, vocab].
  virtual std::vector<float> decode(std::span<const SequenceId> sequences,
                                    std::span<const std::int64_t> tokens,
                                    std::span<const std::size_t> counts) = 0;
};

}  // namespace internvl
