#include "ops/cpu/kv_storage.h"

#include <cstdint>
#include <cstring>
#include <limits>
#include <string>

#include "kernels/attention/attention.h"
#include "kernels/vector/storage.h"
#include "runtime/error.h"

namespace internvl {
namespace {

constexpr std::size_t cache_line = 64;

CacheShape checked(const CacheShape& shape) {
  if (shape.head_dim == 0 || shape.head_dim % 8 != 0 || shape.head_dim > most_head_dim) {
    throw BundleError("the language model's head_dim is " + std::to_string(shape.head_dim) +
                      "; the native engine takes multiples of 8 up to " + std::to_string(most_head_dim) +
                      ". Use engine=\"onnxruntime\".");
  }
  return shape;
}

// Keys and values of one head in one block.
std::size_t block_head_bytes(CacheType type, std::size_t head_dim) {
  const std::size_t elements = attention_block_elements(head_dim);
  switch (type) {
    case CacheType::float32:
      return elements * sizeof(float);
    case CacheType::float16:
    case CacheType::bfloat16:
      return elements * sizeof(BFloat16);
    case CacheType::int8:
      break;
  }
  return elements + 2 * cache_block * sizeof(float);
}

}  // namespace

const BlockKernels& block_kernels(CacheType type, Features features) {
  const AttentionKernels& kernels = attention_kernels(features);
  switch (type) {
    case CacheType::float32:
      return kernels.float32;
    case CacheType::float16:
      return kernels.float16;
    case CacheType::bfloat16:
      return kernels.bfloat16;
    case CacheType::int8:
      break;
  }
  return kernels.int8;
}

KvStorage::KvStorage(const CacheShape& shape, Features features)
    : kernels_(block_kernels(checked(shape).type, features)),
      kv_heads_(shape.kv_heads),
      head_bytes_(block_head_bytes(shape.type, shape.head_dim)),
      block_bytes_((shape.layers * shape.kv_heads * head_bytes_ + cache_line - 1) / cache_line * cache_line) {
  const std::size_t blocks = shape.blocks;
  if (blocks > (std::numeric_limits<std::size_t>::max() / 2 - cache_line) / block_bytes_) {
    throw DeviceError("a KV cache of " + std::to_string(blocks) + " blocks of " +
                      std::to_string(block_bytes_) +
                      " bytes is not possible. Ask for room for fewer tokens.");
  }
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

void KvStorage::copy(const BlockCopy& copy) { std::memcpy(place(copy.to), place(copy.from), block_bytes_); }

}  // namespace internvl
