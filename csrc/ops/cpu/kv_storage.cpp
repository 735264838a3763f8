#include "ops/cpu/kv_storage.h"

#include <algorithm>
#include <cmath>
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
  const std::size_t elements = 2 * head_dim * cache_block;
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

void convert(float value, float& out) { out = value; }

void convert(float value, Float16& out) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  const auto sign = static_cast<std::uint16_t>(bits >> 16U & 0x8000U);
  const float magnitude = std::min(std::abs(value), 65504.0F);  // NaN is the first operand, and stays
  if (std::isnan(value)) {
    out.bits = sign | 0x7E00U;
  } else if (magnitude < 0x1p-14F) {
    // Subnormal: a multiple of 2^-24. Adding 1.5 * 2^23 units rounds to one, ties to even.
    const float units = (magnitude * 0x1p24F + 12582912.0F) - 12582912.0F;
    out.bits = static_cast<std::uint16_t>(sign | static_cast<std::uint16_t>(units));
  } else {
    std::memcpy(&bits, &magnitude, sizeof(bits));
    const std::uint32_t rounded = bits + 0xFFFU + (bits >> 13U & 1U);
    out.bits = static_cast<std::uint16_t>(sign | (rounded - (112U << 23U)) >> 13U);
  }
}

void convert(float value, BFloat16& out) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  const bool nan = (bits & 0x7FFFFFFFU) > 0x7F800000U;
  // To the nearest, ties to even; a NaN must not be rounded up into infinity.
  const std::uint32_t rounded = nan ? bits | 0x400000U : bits + 0x7FFFU + (bits >> 16U & 1U);
  out.bits = static_cast<std::uint16_t>(rounded >> 16U);
}

template <class T>
void write_head(std::byte* place, std::size_t slot, std::size_t head_dim, const float* key,
                const float* value) {
  T* keys = reinterpret_cast<T*>(place);
  T* values = keys + head_dim * cache_block + slot * head_dim;
  for (std::size_t d = 0; d < head_dim; ++d) convert(key[d], keys[d * cache_block + slot]);
  for (std::size_t d = 0; d < head_dim; ++d) convert(value[d], values[d]);
}

// The integers of n values at a distance of `stride`, and their scale.
float quantise(const float* values, std::size_t n, std::int8_t* out, std::size_t stride) {
  float greatest = 0;
  float poison = 0;  // NaN where a value is not finite
  for (std::size_t i = 0; i < n; ++i) {
    greatest = std::max(greatest, std::abs(values[i]));
    poison += values[i] * 0.0F;
  }
  // Below, the scale would lose its precision or 127 / greatest overflow: zeros.
  const bool any = greatest + poison >= 0x1p-100F;
  const float inverse = any ? 127.0F / greatest : 0.0F;
  for (std::size_t i = 0; i < n; ++i) {
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, ties to even.
    const float scaled = (values[i] * inverse + 12582912.0F) - 12582912.0F;
    out[i * stride] = static_cast<std::int8_t>(any ? scaled : 0.0F);
  }
  return any ? greatest / 127.0F : poison;
}

void write_int8_head(std::byte* place, std::size_t slot, std::size_t head_dim, const float* key,
                     const float* value) {
  auto* keys = reinterpret_cast<std::int8_t*>(place);
  std::int8_t* values = keys + head_dim * cache_block;
  auto* scales = reinterpret_cast<float*>(values + head_dim * cache_block);
  scales[slot] = quantise(key, head_dim, keys + slot, cache_block);
  scales[cache_block + slot] = quantise(value, head_dim, values + slot * head_dim, 1);
}

}  // namespace

KvStorage::KvStorage(const CacheShape& shape, ThreadTeam& team)
    : type_(checked(shape).type),
      kv_heads_(shape.kv_heads),
      head_dim_(shape.head_dim),
      head_bytes_(block_head_bytes(shape.type, shape.head_dim)),
      block_bytes_((shape.layers * shape.kv_heads * head_bytes_ + cache_line - 1) / cache_line * cache_line),
      memory_(bytes_of(shape.blocks, block_bytes_), team, "a KV cache") {}

void KvStorage::copy(const BlockCopy& copy) { std::memcpy(place(copy.to), place(copy.from), block_bytes_); }

void KvStorage::write(BlockId block, std::size_t slot, std::size_t layer, std::size_t kv_head,
                      const float* key, const float* value) {
  std::byte* head = place(block) + (layer * kv_heads_ + kv_head) * head_bytes_;
  switch (type_) {
    case CacheType::float32:
      return write_head<float>(head, slot, head_dim_, key, value);
    case CacheType::float16:
      return write_head<Float16>(head, slot, head_dim_, key, value);
    case CacheType::bfloat16:
      return write_head<BFloat16>(head, slot, head_dim_, key, value);
    case CacheType::int8:
      return write_int8_head(head, slot, head_dim_, key, value);
  }
}

}  // namespace internvl
