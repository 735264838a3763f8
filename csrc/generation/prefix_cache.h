// Sequences that were computed for requests which are over, kept for those that begin in the same way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "generation/cache_room.h"
#include "kv_cache/ledger.h"
#include "kv_cache/sequence_content.h"

namespace internvl {

// A block of the KV cache that is in use while anybody has a share of it. Sequences share blocks as the
// engine's do: the full ones of what a fork has in common with its origin.
class CountedBlock {
 public:
  explicit CountedBlock(std::shared_ptr<std::size_t> counter) : counter_(std::move(counter)) { ++*counter_; }
  ~CountedBlock() { --*counter_; }
  CountedBlock(const CountedBlock&) = delete;
  CountedBlock& operator=(const CountedBlock&) = delete;
  CountedBlock(CountedBlock&&) = delete;
  CountedBlock& operator=(CountedBlock&&) = delete;

 private:
  std::shared_ptr<std::size_t> counter_;
};
using BlockShare = std::shared_ptr<const CountedBlock>;
using BlockShares = std::vector<BlockShare>;

struct KeptSequence {
  SequenceId sequence;
  SequenceContent content;
  BlockShares blocks;
  unsigned pins = 0;  // requests that are forking it
};

// Kept sequences take room of the KV cache that nobody else needs; the one that was used longest ago goes
// first. Whoever has the scheduler's mutex may call it. It calls no engine: what it gives out is to be
// dropped, and its blocks count until release() is called.
class PrefixCache {
 public:
  using Kept = std::shared_ptr<KeptSequence>;

  // `most_tokens`: of the cache that kept sequences may take; 0: none is kept.
  PrefixCache(const CacheRoom& cache, std::size_t most_tokens, std::int64_t image_context_id);

  // The kept sequence that has most of a prompt's beginning, but for its last token, whose logits are needed.
  struct Match {
    Kept kept;               // null: none
    std::size_t tokens = 0;  // that it has of the prompt
  };
  // `frequencies`: of a sequence as long as the prompt. Beginnings of less than a block do not count.
  Match find(const SequenceContent& prompt, std::size_t frequencies) const;

  // The blocks that a fork of so many tokens has in common with its origin.
  BlockShares shared_blocks(const KeptSequence& origin, std::size_t tokens) const;

  // Keeps a sequence, whose first blocks are `shared` with others. Returns those that are not worth keeping
  // any more, this one among them where nothing is kept.
  std::vector<Kept> keep(SequenceId sequence, SequenceContent content, const BlockShares& shared);
  // It was used just now.
  void touch(const Kept& kept);
  // Takes out a certain one, or the one that was used longest ago but `except`; null where there is none.
  void take_out(const Kept& kept);
  Kept take_oldest(const KeptSequence* except = nullptr);
  std::vector<Kept> take_all();
  // Gives up the blocks of one that was taken out and dropped.
  static void release(KeptSequence& kept) { kept.blocks.clear(); }

  // Tokens of the cache in blocks that nobody else has a share of, the first ones not counted.
  static std::size_t own_tokens(const KeptSequence& kept, std::size_t first, std::size_t block_tokens);
  // Tokens of the cache in blocks that anybody has a share of.
  std::size_t tokens() const { return *blocks_ * cache_.block_tokens; }
  // Those that would be free if everything were taken out but the blocks that others have a share of.
  std::size_t reclaimable(std::span<const BlockShares* const> others) const;
  std::size_t size() const { return kept_.size(); }

 private:
  std::size_t kept_tokens() const;

  CacheRoom cache_;
  std::size_t most_tokens_;
  std::int64_t image_context_id_;
  std::shared_ptr<std::size_t> blocks_ = std::make_shared<std::size_t>(0);
  std::vector<Kept> kept_;  // the one that was used last comes last
};

}  // namespace internvl
