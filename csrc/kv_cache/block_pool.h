#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/resident_memory.h"
#include "runtime/thread_team.h"

namespace internvl {

using BlockId = std::int32_t;

// Blocks of memory of one size, in a number that never changes, with reference counts. All of the memory is
// taken from the system at once: what runs today runs tomorrow.
class BlockPool {
 public:
  // Throws DeviceError if the memory cannot be had.
  BlockPool(std::size_t blocks, std::size_t block_bytes, ThreadTeam& team);

  std::size_t size() const { return references_.size(); }
  std::size_t free_blocks() const { return free_.size(); }
  std::size_t block_bytes() const { return block_bytes_; }
  std::byte* data(BlockId block) { return memory_.data() + static_cast<std::size_t>(block) * block_bytes_; }
  const std::byte* data(BlockId block) const {
    return memory_.data() + static_cast<std::size_t>(block) * block_bytes_;
  }

  // Takes a free block, with one reference. Call it only where free_blocks() > 0.
  BlockId take();
  void add_reference(BlockId block) { ++references_[static_cast<std::size_t>(block)]; }
  // Drops one reference; the block is free when none is left.
  void release(BlockId block);
  std::int32_t references(BlockId block) const { return references_[static_cast<std::size_t>(block)]; }

 private:
  std::size_t block_bytes_;
  std::vector<std::int32_t> references_;
  std::vector<BlockId> free_;  // a stack: blocks that were used last are used again first
  ResidentMemory memory_;
};

}  // namespace internvl
