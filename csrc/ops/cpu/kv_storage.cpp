#include "ops/cpu/kv_storage.h"

#include <cstdint>
#include <cstring>
#include <limits>
#include <string>

#include "kernels/attention/attention.h"
#include "kernels/vector/storage.h"
#include "ops/cpu/head_dim.h"
#include "runtime/error.h"
#include "runtime/rounding.h"

namespace internvl {
namespace {

constexpr std::size_t cache_line = 64;

CacheShape checked(const CacheShape& shape) {
  require_head_dim(shape.head_dim, "language model");
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

std::size_t bytes_of(std::size_t blocks, std::size_t block_bytes) {
  if (blocks == 0 || blocks > std::numeric_limits<std::size_t>::max() / 2 / block_bytes) {
    throw DeviceError("a KV cache of " + std::to_string(blocks) + " blocks of " +
                      std::to_string(block_bytes) + " bytes is not possible. Take a smaller cache_tokens.");
  }
  return blocks * block_bytes;
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

KvStorage::KvStorage(const CacheShape& shape, ThreadTeam& team, Features features)
    : kernels_(block_kernels(checked(shape).type, features)),
      kv_heads_(shape.kv_heads),
      head_bytes_(block_head_bytes(shape.type, shape.head_dim)),
      block_bytes_(round_up(shape.layers * shape.kv_heads * head_bytes_, cache_line)),
      memory_(bytes_of(shape.blocks, block_bytes_), team, "a KV cache") {}

void KvStorage::copy(const BlockCopy& copy) { std::memcpy(place(copy.to), place(copy.from), block_bytes_); }

}  // namespace internvl
