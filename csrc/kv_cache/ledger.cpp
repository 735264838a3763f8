#include "kv_cache/ledger.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "runtime/error.h"
#include "runtime/rounding.h"

namespace internvl {

BlockPool::BlockPool(std::size_t blocks) {
  if (blocks == 0 || blocks > std::numeric_limits<BlockId>::max()) {
    throw DeviceError("a KV cache of " + std::to_string(blocks) +
                      " blocks is not possible. Take a smaller cache_tokens.");
  }
  references_.resize(blocks);
  free_.reserve(blocks);
  for (std::size_t i = blocks; i-- > 0;) free_.push_back(static_cast<BlockId>(i));
}

BlockId BlockPool::take() {
  const BlockId block = free_.back();
  free_.pop_back();
  references_[static_cast<std::size_t>(block)] = 1;
  return block;
}

void BlockPool::release(BlockId block) {
  if (--references_[static_cast<std::size_t>(block)] == 0) free_.push_back(block);
}

Ledger::Ledger(std::size_t tokens, std::size_t block_tokens)
    : block_tokens_(block_tokens), pool_(divide_up(tokens, block_tokens)) {}

const Ledger::Sequence& Ledger::find(SequenceId sequence) const {
  const auto found = sequences_.find(sequence);
  if (found == sequences_.end()) {
    throw PromptError("there is no sequence " + std::to_string(sequence) +
                      ": it was dropped or never made. Start one.");
  }
  return found->second;
}

Ledger::Sequence& Ledger::find_idle(SequenceId sequence) {
  auto& found = const_cast<Sequence&>(std::as_const(*this).find(sequence));
  if (found.held) {
    throw PromptError("sequence " + std::to_string(sequence) +
                      " is being appended to by another call. Wait for it, or fork the sequence before.");
  }
  return found;
}

std::size_t Ledger::length(SequenceId sequence) const {
  const std::lock_guard turn(turn_);
  return find(sequence).length;
}

std::span<const BlockId> Ledger::blocks(SequenceId sequence) const {
  const std::lock_guard turn(turn_);
  return find(sequence).blocks;
}

SequenceId Ledger::new_sequence() {
  const std::lock_guard turn(turn_);
  sequences_.emplace(next_, Sequence{});
  return next_++;
}

SequenceId Ledger::fork(SequenceId sequence, std::size_t tokens) {
  const std::lock_guard turn(turn_);
  const Sequence& origin = find_idle(sequence);
  if (tokens > origin.length) {
    throw PromptError("sequence " + std::to_string(sequence) + " has " + std::to_string(origin.length) +
                      " tokens, and a fork of " + std::to_string(tokens) + " was asked for.");
  }
  Sequence copy;
  copy.length = tokens;
  copy.blocks.assign(origin.blocks.begin(),
                     origin.blocks.begin() + static_cast<std::ptrdiff_t>(blocks_for(tokens)));
  sequences_.emplace(next_, copy);
  for (const BlockId block : copy.blocks) pool_.add_reference(block);
  return next_++;
}

void Ledger::drop(SequenceId sequence) {
  const std::lock_guard turn(turn_);
  for (const BlockId block : find_idle(sequence).blocks) pool_.release(block);
  sequences_.erase(sequence);
}

void Ledger::trim(Sequence& sequence) {
  for (const std::size_t used = blocks_for(sequence.length); sequence.blocks.size() > used;
       sequence.blocks.pop_back()) {
    pool_.release(sequence.blocks.back());
  }
}

Ledger::Reservation::Reservation(Ledger& ledger, std::span<const SequenceId> sequences,
                                 std::span<const std::size_t> counts)
    : ledger_(ledger), sequences_(sequences.begin(), sequences.end()), counts_(counts.begin(), counts.end()) {
  std::vector<SequenceId> sorted = sequences_;
  std::sort(sorted.begin(), sorted.end());
  if (const auto twice = std::adjacent_find(sorted.begin(), sorted.end()); twice != sorted.end()) {
    throw PromptError("sequence " + std::to_string(*twice) +
                      " is named twice in one call. Fork it to continue it in two ways.");
  }
  const std::lock_guard turn(ledger.turn_);
  // First count, then take: a call that does not fit must change nothing.
  BlockPool& pool = ledger.pool_;
  std::size_t needed = 0;
  std::vector<BlockId> left;  // shared blocks that a sequence before in this call leaves for a copy
  std::vector<bool> copies;
  for (std::size_t i = 0; i < sequences_.size(); ++i) {
    const Sequence& sequence = ledger.find_idle(sequences_[i]);
    bool copy = false;
    if (counts_[i] > 0 && sequence.length % ledger.block_tokens_ != 0) {
      const BlockId last = sequence.blocks.back();
      copy = pool.references(last) > 1 + std::count(left.begin(), left.end(), last);
      if (copy) left.push_back(last);
    }
    copies.push_back(copy);
    needed += ledger.blocks_for(sequence.length + counts_[i]) - sequence.blocks.size() + (copy ? 1 : 0);
  }
  if (needed > pool.free_blocks()) {
    throw CacheFullError("the KV cache has " + std::to_string(pool.free_blocks()) + " of " +
                         std::to_string(pool.size()) + " blocks of " + std::to_string(ledger.block_tokens_) +
                         " tokens free, and this call needs " + std::to_string(needed) +
                         ". Give fewer or smaller pictures, or take a larger cache_tokens.");
  }
  // Room first: nothing may throw between taking a block and storing it.
  copies_.reserve(sequences_.size());
  for (std::size_t i = 0; i < sequences_.size(); ++i) {
    Sequence& sequence = ledger.find_idle(sequences_[i]);
    sequence.blocks.reserve(ledger.blocks_for(sequence.length + counts_[i]));
  }
  for (std::size_t i = 0; i < sequences_.size(); ++i) {
    Sequence& sequence = ledger.find_idle(sequences_[i]);
    if (copies[i]) {
      const BlockId shared = sequence.blocks.back();
      sequence.blocks.back() = pool.take();
      copies_.push_back({shared, sequence.blocks.back()});
      pool.release(shared);
    }
    while (sequence.blocks.size() < ledger.blocks_for(sequence.length + counts_[i]))
      sequence.blocks.push_back(pool.take());
    sequence.held = true;
  }
}

Ledger::Reservation::~Reservation() {
  const std::lock_guard turn(ledger_.turn_);
  for (const SequenceId id : sequences_) {
    Sequence& sequence = ledger_.sequences_.find(id)->second;
    sequence.held = false;
    ledger_.trim(sequence);
  }
}

void Ledger::Reservation::commit() {
  const std::lock_guard turn(ledger_.turn_);
  for (std::size_t i = 0; i < sequences_.size(); ++i)
    ledger_.sequences_.find(sequences_[i])->second.length += counts_[i];
}

}  // namespace internvl
