#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <random>
#include <vector>

#include "check.h"
#include "kv_cache/kv_cache.h"

namespace internvl {
namespace {

constexpr std::size_t layers = 2;
constexpr std::size_t kv_heads = 2;
constexpr std::size_t head_dim = 8;

ThreadTeam& team() {
  static ThreadTeam team(2);
  return team;
}

KvCache small_cache(std::size_t blocks, CacheType type = CacheType::float32) {
  return {type, layers, kv_heads, head_dim, blocks * cache_block, team()};
}

// The number that a token's key of one layer and head is made of.
float mark(int token, std::size_t layer, std::size_t head, std::size_t d) {
  return static_cast<float>(token * 64 + static_cast<int>(layer * 32 + head * 16 + d));
}

void append(KvCache& cache, SequenceId sequence, const std::vector<int>& tokens) {
  KvCache::Reservation room(cache, {&sequence, 1}, tokens.size());
  std::size_t position = cache.length(sequence);
  for (const int token : tokens) {
    for (std::size_t layer = 0; layer < layers; ++layer) {
      for (std::size_t head = 0; head < kv_heads; ++head) {
        float key[head_dim];
        float value[head_dim];
        for (std::size_t d = 0; d < head_dim; ++d) {
          key[d] = mark(token, layer, head, d);
          value[d] = -key[d];
        }
        cache.write(cache.blocks(sequence)[position / cache_block], position % cache_block, layer, head, key,
                    value);
      }
    }
    ++position;
  }
  room.commit();
}

bool holds(const KvCache& cache, SequenceId sequence, const std::vector<int>& tokens) {
  if (cache.length(sequence) != tokens.size()) return false;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    for (std::size_t layer = 0; layer < layers; ++layer) {
      for (std::size_t head = 0; head < kv_heads; ++head) {
        const auto* keys =
            reinterpret_cast<const float*>(cache.keys(cache.blocks(sequence)[i / cache_block], layer, head));
        const float* values = keys + head_dim * cache_block;
        for (std::size_t d = 0; d < head_dim; ++d) {
          const float wanted = mark(tokens[i], layer, head, d);
          if (keys[d * cache_block + i % cache_block] != wanted) return false;
          if (values[i % cache_block * head_dim + d] != -wanted) return false;
        }
      }
    }
  }
  return true;
}

std::size_t blocks_of(std::size_t tokens) { return (tokens + cache_block - 1) / cache_block; }

TEST("random appends, forks, drops and failures agree with lists of tokens, and lose no block") {
  std::mt19937 random(5);
  const std::size_t pool = 24;
  KvCache cache = small_cache(pool);
  std::map<SequenceId, std::vector<int>> wanted;
  int next_token = 1;
  int full = 0;
  int forks_appended = 0;
  for (int step = 0; step < 6000; ++step) {
    const auto pick = [&] {
      return std::next(wanted.begin(), static_cast<int>(random() % wanted.size()))->first;
    };
    const auto action = static_cast<unsigned>(random() % 10);
    if (wanted.empty() || action == 0) {
      wanted[cache.new_sequence()] = {};
    } else if (action <= 2 && wanted.size() < 12) {
      const SequenceId original = pick();
      const SequenceId copy = cache.fork(original);
      wanted[copy] = wanted[original];
    } else if (action == 3) {
      const SequenceId sequence = pick();
      cache.drop(sequence);
      wanted.erase(sequence);
    } else {
      // One token, a few, or many; to one sequence or, in one reservation, to all of them.
      const std::size_t count = action < 6 ? 1 : random() % (action == 9 ? 20 : 90);
      std::vector<SequenceId> targets{pick()};
      if (action == 9) {
        targets.clear();
        for (const auto& [sequence, tokens] : wanted) targets.push_back(sequence);
      }
      const std::size_t free = cache.free_blocks();
      try {
        if (targets.size() == 1) {
          std::vector<int> tokens;
          for (std::size_t i = 0; i < count; ++i) tokens.push_back(next_token++);
          append(cache, targets[0], tokens);
          auto& list = wanted[targets[0]];
          list.insert(list.end(), tokens.begin(), tokens.end());
        } else {
          // Room for all of them that is given up again.
          const KvCache::Reservation room(cache, targets, count);
          ++forks_appended;
        }
      } catch (const CacheFullError&) {
        ++full;
        CHECK(cache.free_blocks() == free);
      }
    }
    if (step % 16 == 0) {
      for (const auto& [sequence, tokens] : wanted) CHECK(holds(cache, sequence, tokens));
    }
    std::vector<BlockId> used;
    for (const auto& [sequence, tokens] : wanted) {
      const auto blocks = cache.blocks(sequence);
      CHECK(blocks.size() == blocks_of(tokens.size()));
      used.insert(used.end(), blocks.begin(), blocks.end());
    }
    std::sort(used.begin(), used.end());
    used.erase(std::unique(used.begin(), used.end()), used.end());
    CHECK(cache.free_blocks() + used.size() == pool);
  }
  CHECK(full > 20 && forks_appended > 20);
  for (const auto& [sequence, tokens] : wanted) cache.drop(sequence);
  CHECK(cache.free_blocks() == pool);
}

TEST("a fork shares every block until one of the two appends, and then copies the last one alone") {
  KvCache cache = small_cache(8);
  const SequenceId original = cache.new_sequence();
  std::vector<int> tokens(2 * cache_block + 5);
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int>(i + 1);
  append(cache, original, tokens);
  const SequenceId fork = cache.fork(original);
  CHECK(cache.free_blocks() == 5);
  append(cache, fork, {777});
  CHECK(cache.free_blocks() == 4);
  CHECK(cache.blocks(fork)[0] == cache.blocks(original)[0] &&
        cache.blocks(fork)[1] == cache.blocks(original)[1]);
  CHECK(cache.blocks(fork)[2] != cache.blocks(original)[2]);
  append(cache, original, {888});  // alone with its block now
  CHECK(cache.free_blocks() == 4);
  std::vector<int> forked = tokens;
  forked.push_back(777);
  tokens.push_back(888);
  CHECK(holds(cache, original, tokens) && holds(cache, fork, forked));
}

TEST("a fork at a block's boundary copies nothing") {
  KvCache cache = small_cache(4);
  const SequenceId original = cache.new_sequence();
  append(cache, original, std::vector<int>(cache_block, 3));
  const SequenceId fork = cache.fork(original);
  append(cache, fork, {4});
  CHECK(cache.free_blocks() == 2 && cache.blocks(fork)[0] == cache.blocks(original)[0]);
}

TEST("sharers that append in one call copy one block fewer than they are") {
  KvCache cache = small_cache(3);
  const SequenceId original = cache.new_sequence();
  append(cache, original, {1, 2, 3});
  const std::vector<SequenceId> all{original, cache.fork(original), cache.fork(original)};
  {
    KvCache::Reservation room(cache, all, 1);
    CHECK(cache.free_blocks() == 0);
    CHECK(cache.blocks(all[0])[0] != cache.blocks(all[1])[0]);
    CHECK(cache.blocks(all[1])[0] != cache.blocks(all[2])[0]);
  }
  for (const SequenceId sequence : all) CHECK(holds(cache, sequence, {1, 2, 3}));
}

TEST("a reservation holds its sequences") {
  KvCache cache = small_cache(4);
  const SequenceId sequence = cache.new_sequence();
  {
    const KvCache::Reservation room(cache, {&sequence, 1}, 1);
    CHECK_THROWS(PromptError, cache.drop(sequence));
    CHECK_THROWS(PromptError, cache.fork(sequence));
    CHECK_THROWS(PromptError, KvCache::Reservation(cache, {&sequence, 1}, 1));
    CHECK(cache.length(sequence) == 0);
  }
  CHECK(cache.free_blocks() == 4);
  cache.drop(sequence);
}

TEST("sequences that do not exist, or stand twice in one call, are prompt errors") {
  KvCache cache = small_cache(4);
  const SequenceId sequence = cache.new_sequence();
  CHECK_THROWS(PromptError, cache.length(99));
  CHECK_THROWS(PromptError, cache.drop(99));
  CHECK_THROWS(PromptError, cache.fork(99));
  const std::vector<SequenceId> twice{sequence, sequence};
  CHECK_THROWS(PromptError, KvCache::Reservation(cache, twice, 1));
  const std::vector<SequenceId> missing{sequence, 99};
  CHECK_THROWS(PromptError, KvCache::Reservation(cache, missing, 1));
  append(cache, sequence, {1});  // the failed calls hold nothing
  cache.drop(sequence);
  CHECK_THROWS(PromptError, cache.drop(sequence));
  CHECK(cache.free_blocks() == 4);
}

TEST("a cache of impossible size is a device error") {
  CHECK_THROWS(DeviceError, small_cache(0));
  CHECK_THROWS(DeviceError, KvCache(CacheType::float32, 1000, 1000, 256, std::size_t{1} << 40, team()));
  // More than any address space has, and less than a number holds.
  CHECK_THROWS(DeviceError, KvCache(CacheType::float32, 100, 1, 256, std::size_t{1} << 31, team()));
  CHECK_THROWS(PromptError, cache_type_from("int3"));
}

std::size_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::size_t size = 0;
  std::size_t resident = 0;
  file >> size >> resident;
  return resident * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

TEST("all of a cache's memory is taken when it is made, and given back with it") {
  constexpr std::size_t bytes = std::size_t{200} << 20U;
  const std::size_t before = resident_bytes();
  {
    const std::size_t tokens = bytes / (2 * sizeof(float) * layers * kv_heads * head_dim);
    const KvCache cache(CacheType::float32, layers, kv_heads, head_dim, tokens, team());
    CHECK(resident_bytes() - before > bytes / 10 * 9);
  }
  CHECK(resident_bytes() < before + bytes / 10);
}

TEST("bfloat16 rounds to the nearest, ties to even, and keeps NaN and infinity") {
  KvCache cache = small_cache(1, CacheType::bfloat16);
  const SequenceId sequence = cache.new_sequence();
  const KvCache::Reservation room(cache, {&sequence, 1}, 1);
  const float key[head_dim] = {1.0F,     1.00390625F, 1.01171875F, 1.00390637F,
                               -3.0e38F, INFINITY,    NAN,         1.5e-38F};
  const float wanted[head_dim] = {1.0F, 1.0F, 1.015625F, 1.0078125F, -2.99e38F, INFINITY, NAN, 1.5e-38F};
  cache.write(cache.blocks(sequence)[0], 0, 0, 0, key, key);
  const auto* stored = reinterpret_cast<const std::uint16_t*>(cache.keys(cache.blocks(sequence)[0], 0, 0));
  for (std::size_t d = 0; d < head_dim; ++d) {
    const std::uint32_t bits = static_cast<std::uint32_t>(stored[d * cache_block]) << 16;
    float value = 0;
    __builtin_memcpy(&value, &bits, sizeof(value));
    if (wanted[d] != wanted[d]) {
      CHECK(value != value);
    } else if (d == 4 || d == 7) {
      CHECK(value > wanted[d] * (wanted[d] > 0 ? 0.99F : 1.01F) &&
            value < wanted[d] * (wanted[d] > 0 ? 1.01F : 0.99F));
    } else {
      CHECK(value == wanted[d]);
    }
  }
}

TEST("float16 rounds to the nearest, ties to even, and ends at its greatest number") {
  KvCache cache = small_cache(1, CacheType::float16);
  const SequenceId sequence = cache.new_sequence();
  const KvCache::Reservation room(cache, {&sequence, 1}, 1);
  // 1 + 2^-11 lies between 1 and the next; 2^-25 between 0 and the least; 65519.99 below infinity.
  const float key[head_dim] = {1.0F, 1.00048828125F, -1.00146484375F, 0x1p-25F, 0x1.8p-24F, 1e9F,
                               NAN,  0x1.ffep-15F};
  const std::uint16_t wanted[head_dim] = {0x3C00, 0x3C00, 0xBC02, 0, 2, 0x7BFF, 0x7E00, 0x0400};
  const float value[head_dim] = {65519.0F,      -INFINITY, -0.0F,   0.333333F,
                                 6.1035156e-5F, 2049.0F,   2051.0F, -5.9604645e-8F};
  const std::uint16_t wanted_values[head_dim] = {0x7BFF, 0xFBFF, 0x8000, 0x3555,
                                                 0x0400, 0x6800, 0x6802, 0x8001};
  cache.write(cache.blocks(sequence)[0], 0, 0, 0, key, value);
  const auto* stored = reinterpret_cast<const std::uint16_t*>(cache.keys(cache.blocks(sequence)[0], 0, 0));
  for (std::size_t d = 0; d < head_dim; ++d) {
    CHECK(stored[d * cache_block] == wanted[d]);
    CHECK(stored[head_dim * cache_block + d] == wanted_values[d]);
  }
}

TEST("int8 keys and values are within half a step of one scale for each token and head") {
  KvCache cache = small_cache(1, CacheType::int8);
  const SequenceId sequence = cache.new_sequence();
  const KvCache::Reservation room(cache, {&sequence, 1}, 3);
  const float rows[3][head_dim] = {{1.0F, -2.54F, 0.01F, 0.03F, 2.0F, -0.011F, 1.27F, 0.0F},
                                   {3e30F, 1e30F, -3e30F, 0, 0, 0, 1e28F, 2e28F},
                                   {0, 0, 0, 0, 0, 0, 0, 1e-38F}};
  const BlockId block = cache.blocks(sequence)[0];
  for (std::size_t slot = 0; slot < 3; ++slot) cache.write(block, slot, 1, 1, rows[slot], rows[2 - slot]);
  const auto* keys = reinterpret_cast<const std::int8_t*>(cache.keys(block, 1, 1));
  const std::int8_t* values = keys + head_dim * cache_block;
  const auto* scales = reinterpret_cast<const float*>(values + head_dim * cache_block);
  for (std::size_t slot = 0; slot < 3; ++slot) {
    for (std::size_t d = 0; d < head_dim; ++d) {
      const float key = rows[slot][d];
      const float value = rows[2 - slot][d];
      const float key_scale = scales[slot];
      const float value_scale = scales[cache_block + slot];
      CHECK(std::abs(static_cast<float>(keys[d * cache_block + slot]) * key_scale - key) <=
            0.50001F * key_scale + 0x1p-100F);
      CHECK(std::abs(static_cast<float>(values[slot * head_dim + d]) * value_scale - value) <=
            0.50001F * value_scale + 0x1p-100F);
    }
  }
  CHECK(keys[cache_block] == -127 && scales[0] == 2.54F / 127.0F && scales[2] == 0.0F);
  float bad[head_dim] = {1, 2, 3, 4, 5, 6, 7, NAN};
  cache.write(block, 0, 1, 1, bad, rows[0]);
  CHECK(std::isnan(scales[0]) && !std::isnan(scales[cache_block]));
  bad[7] = -INFINITY;
  cache.write(block, 1, 1, 1, rows[0], bad);
  CHECK(std::isnan(scales[cache_block + 1]) && !std::isnan(scales[1]));
}

}  // namespace
}  // namespace internvl

int main() { return internvl::test::run_all(); }
