// How large the KV cache is where nobody says, and whether the memory at hand holds it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "bundle/manifest.h"
#include "generation/options.h"
#include "ops/cache_type.h"

namespace internvl {

// Where nobody says how many, the model and the machine do: see cache_size().
inline constexpr IntegerOption kCacheTokens{"cache_tokens", 1, std::int64_t{1} << 24, 0};
inline constexpr IntegerOption kMaxContext{"max_context", 1, kCacheTokens.most, 0};

// Bytes of keys and values that one token leaves in the cache.
std::uint64_t kv_bytes_per_token(std::size_t layers, std::size_t kv_heads, std::size_t head_dim,
                                 CacheType type);

// How keys and values are stored where the user does not say, by the precision of the language model and
// whether the processor multiplies keys and values in bf16.
//
// Half of float32's bytes is half of what a step reads. float16 rounds to 11 bits and is multiplied in fp32;
// bfloat16 rounds to 8, as bf16 weights and integers do anyway, and is multiplied as it is stored, twice as
// fast, by processors that can.
CacheType default_cache_type(Precision language_model, bool attends_in_bfloat16);

// Tokens of the KV cache where the caller names none: the trained length, 32768 at most, as far as that takes
// no more than a quarter of the memory which the weights leave; 4096 at least.
//
// `per_token`: bytes; none where the cache does not lie in the machine's memory. `usable`: bytes that this
// process can still take; none where that is not known.
std::size_t default_cache_tokens(std::size_t trained, std::optional<std::uint64_t> per_token,
                                 std::uint64_t weights, std::optional<std::uint64_t> usable);

// Throws DeviceError unless the memory at hand holds the cache and leaves a sixteenth for the rest.
void check_memory(std::size_t cache_tokens, std::uint64_t per_token, std::uint64_t usable);

struct CacheSize {
  std::size_t cache_tokens;    // of the KV cache, all answers together
  std::size_t context_tokens;  // of one prompt and its answer
};

// What the caller asked for, none where he did not, with `unasked` as the cache where it is not too small.
// Throws PromptError if a number is out of range, or the context is longer than the cache or than the model
// is made for.
CacheSize cache_size(const RopeFacts& rope, std::optional<std::int64_t> cache_tokens,
                     std::optional<std::int64_t> max_context, std::size_t unasked);

}  // namespace internvl
