// How many tokens of a KV cache a sequence and its forks take.
#pragma once

#include <cstddef>

#include "runtime/rounding.h"

namespace internvl {

struct CacheRoom {
  std::size_t tokens;        // that the cache holds, all sequences together
  std::size_t block_tokens;  // a sequence takes whole blocks of so many
  bool forks_share;          // full blocks that a fork has in common with its origin; else a fork is a copy

  // Tokens of the cache that a prompt takes at most with its forks, to each of which `added` tokens are
  // appended; they are appended to the prompt itself where there are no forks.
  std::size_t needed(std::size_t prompt, std::size_t added, std::size_t forks) const {
    const std::size_t whole = round_up(prompt + added, block_tokens);
    if (forks == 0) return whole;
    const std::size_t shared = forks_share ? prompt / block_tokens * block_tokens : 0;
    return round_up(prompt, block_tokens) + forks * (whole - shared);
  }
};

}  // namespace internvl
