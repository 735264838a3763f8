// Keys and values in the memory of the CPU, laid out as its attention reads them
// (kernels/attention/attention.h).
#pragma once

#include <cstddef>

#include "kv_cache/ledger.h"
#include "ops/ops.h"
#include "runtime/resident_memory.h"
#include "runtime/thread_team.h"

namespace internvl {

class KvStorage {
 public:
  // Throws BundleError if there are no kernels for heads of that size, DeviceError if there is no memory for
  // so many blocks.
  KvStorage(const CacheShape& shape, ThreadTeam& team);

  CacheType type() const { return type_; }
  // Where a block's keys [head_dim, cache_block] lie; its values [cache_block, head_dim] follow.
  const std::byte* keys(BlockId block, std::size_t layer, std::size_t kv_head) const {
    return place(block) + (layer * kv_heads_ + kv_head) * head_bytes_;
  }
  // Writes key and value [head_dim] of one token into place `slot` of a block.
  void write(BlockId block, std::size_t slot, std::size_t layer, std::size_t kv_head, const float* key,
             const float* value);
  void copy(const BlockCopy& copy);

 private:
  std::byte* place(BlockId block) { return memory_.data() + static_cast<std::size_t>(block) * block_bytes_; }
  const std::byte* place(BlockId block) const {
    return memory_.data() + static_cast<std::size_t>(block) * block_bytes_;
  }

  CacheType type_;
  std::size_t kv_heads_;
  std::size_t head_dim_;
  std::size_t head_bytes_;  // keys and values of one head in one block
  std::size_t block_bytes_;
  ResidentMemory memory_;
};

}  // namespace internvl
