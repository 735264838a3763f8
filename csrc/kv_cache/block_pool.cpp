#include "kv_cache/block_pool.h"

#include <limits>
#include <string>

#include "runtime/error.h"

namespace internvl {
namespace {

constexpr std::size_t cache_line = 64;

std::size_t checked_bytes(std::size_t blocks, std::size_t block_bytes) {
  constexpr std::size_t most = std::numeric_limits<BlockId>::max();
  if (blocks == 0 || blocks > most || blocks > std::numeric_limits<std::size_t>::max() / 2 / block_bytes) {
    throw DeviceError("a KV cache of " + std::to_string(blocks) + " blocks of " +
                      std::to_string(block_bytes) + " bytes is not possible. Take a smaller cache_tokens.");
  }
  return blocks * block_bytes;
}

}  // namespace

BlockPool::BlockPool(std::size_t blocks, std::size_t block_bytes, ThreadTeam& team)
    : block_bytes_((block_bytes + cache_line - 1) / cache_line * cache_line),
      memory_(checked_bytes(blocks, block_bytes_), team, "a KV cache") {
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

}  // namespace internvl
