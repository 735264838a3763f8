// Keys and values of many sequences in one pool of blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "kernels/attention/attention.h"
#include "kv_cache/block_pool.h"
#include "runtime/thread_team.h"
#include "runtime/turn_lock.h"

namespace internvl {

// How keys and values are stored.
//
//   float16    rounded to the nearest; beyond 65504, that
//   int8       times one fp32 scale for each token's key and value of a head: 127 is its greatest magnitude
enum class CacheType { float32, float16, bfloat16, int8 };

// Throws PromptError for a name that is not one of the above.
CacheType cache_type_from(std::string_view name);

using SequenceId = std::int64_t;

// A sequence is a list of blocks of `cache_block` tokens. fork() shares all of them; the last one is copied
// when one of the sharers appends to it while it is not full.
//
// Calls from several threads take turns, which are short. What lies in a sequence's blocks is read and
// written outside of them, by whoever holds it with a Reservation: a block that sequences share is never
// written.
class KvCache {
 public:
  // Room for at least `tokens` tokens, whose memory the team's threads take at once. Throws DeviceError if
  // there is none for it.
  KvCache(CacheType type, std::size_t layers, std::size_t kv_heads, std::size_t head_dim, std::size_t tokens,
          ThreadTeam& team);

  CacheType type() const { return type_; }
  // Tokens that the pool holds, all sequences together.
  std::size_t tokens() const { return pool_.size() * cache_block; }
  std::size_t free_blocks() const {
    const std::lock_guard turn(turn_);
    return pool_.free_blocks();
  }

  // The calls below throw PromptError if a sequence does not exist, and those that change it also while a
  // Reservation holds it.
  SequenceId new_sequence();
  SequenceId fork(SequenceId sequence);
  void drop(SequenceId sequence);
  std::size_t length(SequenceId sequence) const;
  // The blocks of a sequence, a Reservation's included. They stay while a Reservation holds it.
  std::span<const BlockId> blocks(SequenceId sequence) const;

  // Where a block's keys [head_dim, cache_block] lie; its values [cache_block, head_dim] follow.
  const std::byte* keys(BlockId block, std::size_t layer, std::size_t kv_head) const {
    return pool_.data(block) + (layer * kv_heads_ + kv_head) * head_bytes_;
  }
  // Writes key and value [head_dim] of one token into place `slot` of a block.
  void write(BlockId block, std::size_t slot, std::size_t layer, std::size_t kv_head, const float* key,
             const float* value);

  // Room at the end of several different sequences, for `count` tokens each. It holds the sequences: until it
  // is gone, nobody else can change them. Unless committed, it leaves every sequence as it was.
  class Reservation {
   public:
    // Throws CacheFullError if there is not room for all of them, and PromptError if a sequence is named
    // twice, does not exist, or is held by another reservation; nothing has changed then.
    Reservation(KvCache& cache, std::span<const SequenceId> sequences, std::size_t count);
    ~Reservation();
    Reservation(const Reservation&) = delete;
    Reservation& operator=(const Reservation&) = delete;
    Reservation(Reservation&&) = delete;
    Reservation& operator=(Reservation&&) = delete;

    // The tokens were written: they now belong to their sequences.
    void commit();

   private:
    KvCache& cache_;
    std::vector<SequenceId> sequences_;
    std::size_t count_;
  };

 private:
  struct Sequence {
    std::vector<BlockId> blocks;
    std::size_t length = 0;
    bool held = false;
  };

  // The owner of a turn calls these.
  const Sequence& find(SequenceId sequence) const;
  Sequence& find_idle(SequenceId sequence);
  // Drops the blocks that lie behind the sequence's length.
  void trim(Sequence& sequence);

  CacheType type_;
  std::size_t kv_heads_;
  std::size_t head_dim_;
  std::size_t head_bytes_;  // keys and values of one head in one block
  BlockPool pool_;
  std::unordered_map<SequenceId, Sequence> sequences_;
  SequenceId next_ = 1;
  mutable TurnLock turn_;  // at the sequences and the pool
};

}  // namespace internvl
