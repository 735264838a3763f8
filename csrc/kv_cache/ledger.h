// Which sequence owns which blocks of the KV cache. It knows no device: where keys and values lie, and how,
// is the storage's business.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "runtime/rounding.h"
#include "runtime/turn_lock.h"

namespace internvl {

using BlockId = std::int32_t;
using SequenceId = std::int64_t;

// The content of one block is wanted in another one.
struct BlockCopy {
  BlockId from;
  BlockId to;
};

// Blocks in a number that never changes, with reference counts.
class BlockPool {
 public:
  // Throws DeviceError unless 1 to 2^31 - 1 blocks are asked for.
  explicit BlockPool(std::size_t blocks);

  std::size_t size() const { return references_.size(); }
  std::size_t free_blocks() const { return free_.size(); }

  // Takes a free block, with one reference. Call it only where free_blocks() > 0.
  BlockId take();
  void add_reference(BlockId block) { ++references_[static_cast<std::size_t>(block)]; }
  // Drops one reference; the block is free when none is left.
  void release(BlockId block);
  std::int32_t references(BlockId block) const { return references_[static_cast<std::size_t>(block)]; }

 private:
  std::vector<std::int32_t> references_;
  std::vector<BlockId> free_;  // a stack: blocks that were used last are used again first
};

// A sequence is a list of blocks of so many tokens. fork() shares those that hold the tokens it takes; the
// last one is copied when one of the sharers appends to it where it does not end with the block.
//
// Calls from several threads take turns, which are short. What lies in a sequence's blocks is read and
// written outside of them, by whoever holds it with a Reservation: a block that sequences share is never
// written.
class Ledger {
 public:
  // Room for at least `tokens` tokens. Throws DeviceError if that is no possible number.
  Ledger(std::size_t tokens, std::size_t block_tokens);

  std::size_t block_tokens() const { return block_tokens_; }
  std::size_t blocks() const { return pool_.size(); }
  std::size_t free_blocks() const {
    const std::lock_guard turn(turn_);
    return pool_.free_blocks();
  }
  // Tokens that the pool holds, all sequences together.
  std::size_t tokens() const { return pool_.size() * block_tokens_; }

  // The calls below throw PromptError if a sequence does not exist, and those that change it also while a
  // Reservation holds it.
  SequenceId new_sequence();
  // A sequence of the first `tokens` tokens of another. Throws PromptError too if it has fewer.
  SequenceId fork(SequenceId sequence, std::size_t tokens);
  void drop(SequenceId sequence);
  std::size_t length(SequenceId sequence) const;
  // The blocks of a sequence, a Reservation's included. They stay while a Reservation holds it.
  std::span<const BlockId> blocks(SequenceId sequence) const;

  // Room at the end of several different sequences, for `counts[i]` tokens of sequences[i] or `count` of
  // each. It holds the sequences: until it is gone, nobody else can change them. Unless committed, it leaves
  // every sequence as it was.
  class Reservation {
   public:
    // Throws CacheFullError if there is not room for all of them, and PromptError if a sequence is named
    // twice, does not exist, or is held by another reservation; nothing has changed then.
    Reservation(Ledger& ledger, std::span<const SequenceId> sequences, std::span<const std::size_t> counts);
    Reservation(Ledger& ledger, std::span<const SequenceId> sequences, std::size_t count)
        : Reservation(ledger, sequences, std::vector<std::size_t>(sequences.size(), count)) {}
    ~Reservation();
    Reservation(const Reservation&) = delete;
    Reservation& operator=(const Reservation&) = delete;
    Reservation(Reservation&&) = delete;
    Reservation& operator=(Reservation&&) = delete;

    // What has to be copied before the first of the tokens is written.
    std::span<const BlockCopy> copies() const { return copies_; }
    // The tokens were written: they now belong to their sequences.
    void commit();

   private:
    Ledger& ledger_;
    std::vector<SequenceId> sequences_;
    std::vector<std::size_t> counts_;
    std::vector<BlockCopy> copies_;
  };

 private:
  struct Sequence {
    std::vector<BlockId> blocks;
    std::size_t length = 0;
    bool held = false;
  };

  std::size_t blocks_for(std::size_t tokens) const { return divide_up(tokens, block_tokens_); }
  // The owner of a turn calls these.
  const Sequence& find(SequenceId sequence) const;
  Sequence& find_idle(SequenceId sequence);
  // Drops the blocks that lie behind the sequence's length.
  void trim(Sequence& sequence);

  std::size_t block_tokens_;
  BlockPool pool_;
  std::unordered_map<SequenceId, Sequence> sequences_;
  SequenceId next_ = 1;
  mutable TurnLock turn_;  // at the sequences and the pool
};

}  // namespace internvl
