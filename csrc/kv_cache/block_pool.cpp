#include "kv_cache/block_pool.h"

#include <limits>
#include <string>

#include "runtime/error.h"

namespace internvl {
namespace {

constexpr std::size_t cache_line = 64;

}  // namespace

BlockPool::BlockPool(std::size_t blocks, std::size_t block_bytes)
    : block_bytes_((block_bytes + cache_line - 1) / cache_line * cache_line) {
  constexpr std::size_t most = std::numeric_limits<BlockId>::max();
  if (blocks == 0 || blocks > most ||
      blocks > (std::numeric_limits<std::size_t>::max() / 2 - cache_line) / block_bytes_) {
    throw DeviceError("a KV cache of " + std::to_string(blocks) + " blocks of " +
                      std::to_string(block_bytes_) +
                      " bytes is not possible. Ask for room for fewer tokens.");
  }
  references_.resize(blocks);
  free_.reserve(blocks);
  for (std::size_t i = blocks; i-- > 0;) free_.push_back(static_cast<BlockId>(i));
  // calloc, because it takes untouched zero pages from the system for memory of this size.
  memory_.reset(static_cast<std::byte*>(std::calloc(blocks * block_bytes_ + cache_line, 1)));
  if (memory_ == nullptr) {
    throw DeviceError("there is no memory for a KV cache of " +
                      std::to_string(blocks * block_bytes_ / (std::size_t{1} << 20U)) +
                      " MiB. Ask for room for fewer tokens, or for a smaller cache type.");
  }
  const auto address = reinterpret_cast<std::uintptr_t>(memory_.get());
  data_ = memory_.get() + (cache_line - address % cache_line) % cache_line;
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
