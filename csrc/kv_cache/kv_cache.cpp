#include "kv_cache/kv_cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "kernels/vector/storage.h"
#include "runtime/error.h"

namespace internvl {
namespace {

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

std::size_t blocks_for(std::size_t tokens) { return (tokens + cache_block - 1) / cache_block; }

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

CacheType cache_type_from(std::string_view name) {
  if (name == "float32") return CacheType::float32;
  if (name == "float16") return CacheType::float16;
  if (name == "bfloat16") return CacheType::bfloat16;
  if (name == "int8") return CacheType::int8;
  throw PromptError("the cache type '" + std::string(name) +
                    "' is not one of float32, float16, bfloat16, int8.");
}

KvCache::KvCache(CacheType type, std::size_t layers, std::size_t kv_heads, std::size_t head_dim,
                 std::size_t tokens, ThreadTeam& team)
    : type_(type),
      kv_heads_(kv_heads),
      head_dim_(head_dim),
      head_bytes_(block_head_bytes(type, head_dim)),
      pool_(blocks_for(tokens), layers * kv_heads * head_bytes_, team) {}

const KvCache::Sequence& KvCache::find(SequenceId sequence) const {
  const auto found = sequences_.find(sequence);
  if (found == sequences_.end()) {
    throw PromptError("there is no sequence " + std::to_string(sequence) +
                      ": it was dropped or never made. Start one with new_sequence().");
  }
  return found->second;
}

KvCache::Sequence& KvCache::find_idle(SequenceId sequence) {
  auto& found = const_cast<Sequence&>(std::as_const(*this).find(sequence));
  if (found.held) {
    throw PromptError("sequence " + std::to_string(sequence) +
                      " is being appended to by another call. Wait for it, or fork the sequence before.");
  }
  return found;
}

std::size_t KvCache::length(SequenceId sequence) const {
  const std::lock_guard turn(turn_);
  return find(sequence).length;
}

std::span<const BlockId> KvCache::blocks(SequenceId sequence) const {
  const std::lock_guard turn(turn_);
  return find(sequence).blocks;
}

SequenceId KvCache::new_sequence() {
  const std::lock_guard turn(turn_);
  sequences_.emplace(next_, Sequence{});
  return next_++;
}

SequenceId KvCache::fork(SequenceId sequence) {
  const std::lock_guard turn(turn_);
  const Sequence copy = find_idle(sequence);
  sequences_.emplace(next_, copy);
  for (const BlockId block : copy.blocks) pool_.add_reference(block);
  return next_++;
}

void KvCache::drop(SequenceId sequence) {
  const std::lock_guard turn(turn_);
  for (const BlockId block : find_idle(sequence).blocks) pool_.release(block);
  sequences_.erase(sequence);
}

void KvCache::trim(Sequence& sequence) {
  for (const std::size_t used = blocks_for(sequence.length); sequence.blocks.size() > used;
       sequence.blocks.pop_back()) {
    pool_.release(sequence.blocks.back());
  }
}

void KvCache::write(BlockId block, std::size_t slot, std::size_t layer, std::size_t kv_head, const float* key,
                    const float* value) {
  std::byte* place = pool_.data(block) + (layer * kv_heads_ + kv_head) * head_bytes_;
  switch (type_) {
    case CacheType::float32:
      return write_head<float>(place, slot, head_dim_, key, value);
    case CacheType::float16:
      return write_head<Float16>(place, slot, head_dim_, key, value);
    case CacheType::bfloat16:
      return write_head<BFloat16>(place, slot, head_dim_, key, value);
    case CacheType::int8:
      return write_int8_head(place, slot, head_dim_, key, value);
  }
}

KvCache::Reservation::Reservation(KvCache& cache, std::span<const SequenceId> sequences, std::size_t count)
    : cache_(cache), sequences_(sequences.begin(), sequences.end()), count_(count) {
  std::vector<SequenceId> sorted = sequences_;
  std::sort(sorted.begin(), sorted.end());
  if (const auto twice = std::adjacent_find(sorted.begin(), sorted.end()); twice != sorted.end()) {
    throw PromptError("sequence " + std::to_string(*twice) +
                      " is named twice in one call. Fork it to continue it in two ways.");
  }
  const std::lock_guard turn(cache.turn_);
  // First count, then take: a call that does not fit must change nothing.
  BlockPool& pool = cache.pool_;
  std::size_t needed = 0;
  std::vector<BlockId> left;  // shared blocks that a sequence before in this call leaves for a copy
  std::vector<bool> copies;
  for (const SequenceId id : sequences_) {
    const Sequence& sequence = cache.find_idle(id);
    bool copy = false;
    if (count > 0 && sequence.length % cache_block != 0) {
      const BlockId last = sequence.blocks.back();
      copy = pool.references(last) > 1 + std::count(left.begin(), left.end(), last);
      if (copy) left.push_back(last);
    }
    copies.push_back(copy);
    needed += blocks_for(sequence.length + count) - sequence.blocks.size() + (copy ? 1 : 0);
  }
  if (needed > pool.free_blocks()) {
    throw CacheFullError("the KV cache has " + std::to_string(pool.free_blocks()) + " of " +
                         std::to_string(pool.size()) + " blocks of " + std::to_string(cache_block) +
                         " tokens free, and this call needs " + std::to_string(needed) +
                         ". Give fewer or smaller pictures, or take a larger cache_tokens.");
  }
  for (std::size_t i = 0; i < sequences_.size(); ++i) {
    // Room first: nothing may throw between taking a block and storing it.
    Sequence& sequence = cache.find_idle(sequences_[i]);
    sequence.blocks.reserve(blocks_for(sequence.length + count));
  }
  for (std::size_t i = 0; i < sequences_.size(); ++i) {
    Sequence& sequence = cache.find_idle(sequences_[i]);
    if (copies[i]) {
      const BlockId shared = sequence.blocks.back();
      sequence.blocks.back() = pool.take();
      std::memcpy(pool.data(sequence.blocks.back()), pool.data(shared), pool.block_bytes());
      pool.release(shared);
    }
    while (sequence.blocks.size() < blocks_for(sequence.length + count))
      sequence.blocks.push_back(pool.take());
    sequence.held = true;
  }
}

KvCache::Reservation::~Reservation() {
  const std::lock_guard turn(cache_.turn_);
  for (const SequenceId id : sequences_) {
    Sequence& sequence = cache_.sequences_.find(id)->second;
    sequence.held = false;
    cache_.trim(sequence);
  }
}

void KvCache::Reservation::commit() {
  const std::lock_guard turn(cache_.turn_);
  for (const SequenceId id : sequences_) cache_.sequences_.find(id)->second.length += count_;
}

}  // namespace internvl
