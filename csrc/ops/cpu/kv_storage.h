// Keys and values in the memory of the CPU, laid out as its attention reads them
// (kernels/attention/attention.h).
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>

#include "kernels/attention/attention.h"
#include "kv_cache/ledger.h"
#include "ops/ops.h"
#include "runtime/features.h"

namespace internvl {

// The kernels for blocks of that type.
const BlockKernels& block_kernels(CacheType type, Features features);

class KvStorage {
 public:
  // Throws BundleError if there are no kernels for heads of that size, DeviceError if there is no memory for
  // so many blocks.
  explicit KvStorage(const CacheShape& shape, Features features = internvl::features());

  // What attends to its blocks.
  const BlockKernels& kernels() const { return kernels_; }
  // Keys and values of one head in one block, in the kernels' form.
  const std::byte* head(BlockId block, std::size_t layer, std::size_t kv_head) const {
    return place(block) + (layer * kv_heads_ + kv_head) * head_bytes_;
  }
  // Stores tokens in places `slot` and following of a block, which has room for them.
  void write(BlockId block, std::size_t slot, std::size_t layer, std::size_t kv_head,
             const TokenRows& tokens) {
    kernels_.write(tokens, slot, place(block) + (layer * kv_heads_ + kv_head) * head_bytes_);
  }
  void copy(const BlockCopy& copy);

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };

  std::byte* place(BlockId block) const { return data_ + static_cast<std::size_t>(block) * block_bytes_; }

  BlockKernels kernels_;
  std::size_t kv_heads_;
  std::size_t head_bytes_;  // keys and values of one head in one block
  std::size_t block_bytes_;
  std::unique_ptr<std::byte, Free> memory_;
  std::byte* data_;  // memory_ at a cache line's boundary
};

}  // namespace internvl
