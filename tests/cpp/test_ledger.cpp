#include <algorithm>
#include <array>
#include <map>
#include <random>
#include <vector>

#include "check.h"
#include "kv_cache/ledger.h"

namespace internvl {
namespace {

constexpr std::size_t block_tokens = 16;

// A ledger, and in place of a device's storage the number of the token in every slot of every block.
struct Cache {
  explicit Cache(std::size_t blocks) : ledger(blocks * block_tokens, block_tokens), slots(blocks) {}

  Ledger ledger;
  std::vector<std::array<int, block_tokens>> slots;

  void copy(const Ledger::Reservation& room) {
    for (const BlockCopy& copy : room.copies()) slots[copy.to] = slots[copy.from];
  }
};

void append(Cache& cache, SequenceId sequence, const std::vector<int>& tokens) {
  Ledger::Reservation room(cache.ledger, {&sequence, 1}, tokens.size());
  cache.copy(room);
  std::size_t position = cache.ledger.length(sequence);
  for (const int token : tokens) {
    cache.slots[cache.ledger.blocks(sequence)[position / block_tokens]][position % block_tokens] = token;
    ++position;
  }
  room.commit();
}

bool holds(const Cache& cache, SequenceId sequence, const std::vector<int>& tokens) {
  if (cache.ledger.length(sequence) != tokens.size()) return false;
  const auto blocks = cache.ledger.blocks(sequence);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (cache.slots[blocks[i / block_tokens]][i % block_tokens] != tokens[i]) return false;
  }
  return true;
}

SequenceId fork_of(Cache& cache, SequenceId original) {
  return cache.ledger.fork(original, cache.ledger.length(original));
}

std::size_t blocks_of(std::size_t tokens) { return (tokens + block_tokens - 1) / block_tokens; }

TEST("random appends, forks, drops and failures agree with lists of tokens, and lose no block") {
  std::mt19937 random(5);
  const std::size_t pool = 24;
  Cache cache(pool);
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
      wanted[cache.ledger.new_sequence()] = {};
    } else if (action <= 2 && wanted.size() < 12) {
      const SequenceId original = pick();
      std::vector<int> tokens = wanted[original];
      if (random() % 2 == 0) tokens.resize(random() % (tokens.size() + 1));
      wanted[cache.ledger.fork(original, tokens.size())] = tokens;
    } else if (action == 3) {
      const SequenceId sequence = pick();
      cache.ledger.drop(sequence);
      wanted.erase(sequence);
    } else {
      // One token, a few, or many; to one sequence or, in one reservation, to all of them.
      const std::size_t count = action < 6 ? 1 : random() % (action == 9 ? 6 : 23);
      std::vector<SequenceId> targets{pick()};
      if (action == 9) {
        targets.clear();
        for (const auto& [sequence, tokens] : wanted) targets.push_back(sequence);
      }
      const std::size_t free = cache.ledger.free_blocks();
      try {
        if (targets.size() == 1) {
          std::vector<int> tokens;
          for (std::size_t i = 0; i < count; ++i) tokens.push_back(next_token++);
          append(cache, targets[0], tokens);
          auto& list = wanted[targets[0]];
          list.insert(list.end(), tokens.begin(), tokens.end());
        } else {
          // Room for all of them that is given up again.
          const Ledger::Reservation room(cache.ledger, targets, count);
          cache.copy(room);
          ++forks_appended;
        }
      } catch (const CacheFullError&) {
        ++full;
        CHECK(cache.ledger.free_blocks() == free);
      }
    }
    if (step % 16 == 0) {
      for (const auto& [sequence, tokens] : wanted) CHECK(holds(cache, sequence, tokens));
    }
    std::vector<BlockId> used;
    for (const auto& [sequence, tokens] : wanted) {
      const auto blocks = cache.ledger.blocks(sequence);
      CHECK(blocks.size() == blocks_of(tokens.size()));
      used.insert(used.end(), blocks.begin(), blocks.end());
    }
    std::sort(used.begin(), used.end());
    used.erase(std::unique(used.begin(), used.end()), used.end());
    CHECK(cache.ledger.free_blocks() + used.size() == pool);
  }
  CHECK(full > 20 && forks_appended > 20);
  for (const auto& [sequence, tokens] : wanted) cache.ledger.drop(sequence);
  CHECK(cache.ledger.free_blocks() == pool);
}

TEST("a fork shares every block until one of the two appends, and then copies the last one alone") {
  Cache cache(8);
  const SequenceId original = cache.ledger.new_sequence();
  std::vector<int> tokens(2 * block_tokens + 5);
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int>(i + 1);
  append(cache, original, tokens);
  const SequenceId fork = fork_of(cache, original);
  CHECK(cache.ledger.free_blocks() == 5);
  append(cache, fork, {777});
  CHECK(cache.ledger.free_blocks() == 4);
  CHECK(cache.ledger.blocks(fork)[0] == cache.ledger.blocks(original)[0] &&
        cache.ledger.blocks(fork)[1] == cache.ledger.blocks(original)[1]);
  CHECK(cache.ledger.blocks(fork)[2] != cache.ledger.blocks(original)[2]);
  append(cache, original, {888});  // alone with its block now
  CHECK(cache.ledger.free_blocks() == 4);
  std::vector<int> forked = tokens;
  forked.push_back(777);
  tokens.push_back(888);
  CHECK(holds(cache, original, tokens) && holds(cache, fork, forked));
}

TEST("a fork of the beginning shares its blocks, and never writes into one of them") {
  Cache cache(6);
  const SequenceId original = cache.ledger.new_sequence();
  std::vector<int> tokens(40);
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int>(i);
  append(cache, original, tokens);
  for (const std::size_t length : {0UL, 1UL, 16UL, 20UL, 32UL, 39UL, 40UL}) {
    const SequenceId fork = cache.ledger.fork(original, length);
    CHECK(cache.ledger.length(fork) == length);
    append(cache, fork, {777});
    std::vector<int> forked(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(length));
    forked.push_back(777);
    CHECK(holds(cache, original, tokens) && holds(cache, fork, forked));
    cache.ledger.drop(fork);
  }
  CHECK_THROWS(PromptError, cache.ledger.fork(original, 41));
  cache.ledger.drop(original);
  CHECK(cache.ledger.free_blocks() == 6);
}

TEST("a fork at a block's boundary copies nothing") {
  Cache cache(4);
  const SequenceId original = cache.ledger.new_sequence();
  append(cache, original, std::vector<int>(block_tokens, 3));
  const SequenceId fork = fork_of(cache, original);
  append(cache, fork, {4});
  CHECK(cache.ledger.free_blocks() == 2 && cache.ledger.blocks(fork)[0] == cache.ledger.blocks(original)[0]);
}

TEST("sharers that append in one call copy one block fewer than they are") {
  Cache cache(3);
  const SequenceId original = cache.ledger.new_sequence();
  append(cache, original, {1, 2, 3});
  const std::vector<SequenceId> all{original, fork_of(cache, original), fork_of(cache, original)};
  {
    const Ledger::Reservation room(cache.ledger, all, 1);
    cache.copy(room);
    CHECK(room.copies().size() == 2);
    CHECK(cache.ledger.free_blocks() == 0);
    CHECK(cache.ledger.blocks(all[0])[0] != cache.ledger.blocks(all[1])[0]);
    CHECK(cache.ledger.blocks(all[1])[0] != cache.ledger.blocks(all[2])[0]);
  }
  for (const SequenceId sequence : all) CHECK(holds(cache, sequence, {1, 2, 3}));
}

TEST("sequences take room of different lengths in one call, or none of them any") {
  Cache cache(6);
  const SequenceId original = cache.ledger.new_sequence();
  append(cache, original, {1, 2, 3});
  const std::vector<SequenceId> all{original, fork_of(cache, original), cache.ledger.new_sequence()};
  const std::size_t whole = block_tokens;
  const std::vector<std::size_t> too_many{3 * whole, 2 * whole, 1};
  CHECK_THROWS(CacheFullError, Ledger::Reservation(cache.ledger, all, too_many));
  CHECK(cache.ledger.free_blocks() == 5);
  const std::vector<std::size_t> counts{2 * whole - 3, 1, whole + 1};
  {
    Ledger::Reservation room(cache.ledger, all, counts);
    cache.copy(room);
    CHECK(room.copies().size() == 1);
    CHECK(cache.ledger.blocks(all[0]).size() == 2 && cache.ledger.blocks(all[1]).size() == 1);
    CHECK(cache.ledger.blocks(all[2]).size() == 2 && cache.ledger.free_blocks() == 1);
    room.commit();
  }
  CHECK(cache.ledger.length(all[0]) == 2 * whole && cache.ledger.length(all[1]) == 4);
  CHECK(cache.ledger.length(all[2]) == whole + 1 && cache.ledger.free_blocks() == 1);
}

TEST("a reservation holds its sequences") {
  Cache cache(4);
  const SequenceId sequence = cache.ledger.new_sequence();
  {
    const Ledger::Reservation room(cache.ledger, {&sequence, 1}, 1);
    CHECK_THROWS(PromptError, cache.ledger.drop(sequence));
    CHECK_THROWS(PromptError, cache.ledger.fork(sequence, 0));
    CHECK_THROWS(PromptError, Ledger::Reservation(cache.ledger, {&sequence, 1}, 1));
    CHECK(cache.ledger.length(sequence) == 0);
  }
  CHECK(cache.ledger.free_blocks() == 4);
  cache.ledger.drop(sequence);
}

TEST("sequences that do not exist, or stand twice in one call, are prompt errors") {
  Cache cache(4);
  const SequenceId sequence = cache.ledger.new_sequence();
  CHECK_THROWS(PromptError, cache.ledger.length(99));
  CHECK_THROWS(PromptError, cache.ledger.drop(99));
  CHECK_THROWS(PromptError, cache.ledger.fork(99, 0));
  const std::vector<SequenceId> twice{sequence, sequence};
  CHECK_THROWS(PromptError, Ledger::Reservation(cache.ledger, twice, 1));
  const std::vector<SequenceId> missing{sequence, 99};
  CHECK_THROWS(PromptError, Ledger::Reservation(cache.ledger, missing, 1));
  append(cache, sequence, {1});  // the failed calls hold nothing
  cache.ledger.drop(sequence);
  CHECK_THROWS(PromptError, cache.ledger.drop(sequence));
  CHECK(cache.ledger.free_blocks() == 4);
}

TEST("a cache of impossible size is a device error") {
  CHECK_THROWS(DeviceError, Ledger(0, block_tokens));
  CHECK_THROWS(DeviceError, Ledger(std::size_t{1} << 40, block_tokens));
}

}  // namespace
}  // namespace internvl

int main() { return internvl::test::run_all(); }
