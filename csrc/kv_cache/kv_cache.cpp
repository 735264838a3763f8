#include "kv_cache/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "kernels/vector/storage.h"
#include "runtime/error.h"

namespace internvl {
namespace {

std::size_t element_bytes(CacheType type) {
  return type == CacheType::float32 ? sizeof(float) : sizeof(BFloat16);
}

std::size_t blocks_for(std::size_t tokens) { return (tokens + cache_block - 1) / cache_block; }

void convert(float value, float& out) { out = value; }

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

}  // namespace

CacheType cache_type_from(std::string_view name) {
  if (name == "float32") return CacheType::float32;
  if (name == "bfloat16") return CacheType::bfloat16;
  throw PromptError("the cache type '" + std::string(name) + "' is not one of float32, bfloat16.");
}

KvCache::KvCache(CacheType type, std::size_t layers, std::size_t kv_heads, std::size_t head_dim,
                 std::size_t tokens)
    : type_(type),
      kv_heads_(kv_heads),
      head_dim_(head_dim),
      head_bytes_(2 * head_dim * cache_block * element_bytes(type)),
      pool_(blocks_for(tokens), layers * kv_heads * head_bytes_) {}

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

SequenceId KvCache::new_sequence() {
  sequences_.emplace(next_, Sequence{});
  return next_++;
}

SequenceId KvCache::fork(SequenceId sequence) {
  const Sequence copy = find_idle(sequence);
  sequences_.emplace(next_, copy);
  for (const BlockId block : copy.blocks) pool_.add_reference(block);
  return next_++;
}

void KvCache::drop(SequenceId sequence) {
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
  if (type_ == CacheType::float32) {
    write_head<float>(place, slot, head_dim_, key, value);
  } else {
    write_head<BFloat16>(place, slot, head_dim_, key, value);
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
    throw CacheFullError(
        "the KV cache has " + std::to_string(pool.free_blocks()) + " of " + std::to_string(pool.size()) +
        " blocks of " + std::to_string(cache_block) + " tokens free, and this call needs " +
        std::to_string(needed) +
        ". Drop sequences that are done, ask with fewer or smaller images, or load the model "
        "with room for more tokens.");
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
  for (const SequenceId id : sequences_) {
    Sequence& sequence = cache_.sequences_.find(id)->second;
    sequence.held = false;
    cache_.trim(sequence);
  }
}

void KvCache::Reservation::commit() {
  for (const SequenceId id : sequences_) cache_.sequences_.find(id)->second.length += count_;
}

}  // namespace internvl
