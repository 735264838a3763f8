#include "generation/cache_size.h"

#include <algorithm>
#include <string>

#include "kernels/attention/attention.h"
#include "runtime/error.h"
#include "runtime/readable_size.h"

namespace internvl {
namespace {

// What most of the published models are trained for; a larger cache has to be asked for.
constexpr std::size_t most_default_tokens = 32768;
// Room for a picture of 12 tiles and an answer.
constexpr std::size_t least_default_tokens = 4096;
// Where the system does not say how much memory there is, or the cache lies on a GPU.
constexpr std::size_t without_knowledge_tokens = 8192;
constexpr std::uint64_t rounded_to = 1024;

std::string readable(std::uint64_t bytes) { return readable_size(static_cast<double>(bytes)); }

std::size_t checked(const IntegerOption& option, std::int64_t value) {
  return static_cast<std::size_t>(option.checked(value));
}

}  // namespace

std::uint64_t kv_bytes_per_token(std::size_t layers, std::size_t kv_heads, std::size_t head_dim,
                                 CacheType type) {
  std::uint64_t row = 0;
  switch (type) {
    case CacheType::float32:
      row = head_dim * 4;
      break;
    case CacheType::float16:
    case CacheType::bfloat16:
      row = head_dim * 2;
      break;
    case CacheType::int8:
      row = head_dim + sizeof(float);
      break;
  }
  return 2 * layers * kv_heads * row;
}

CacheType default_cache_type(Precision language_model, bool attends_in_bfloat16) {
  if (language_model == Precision::fp32) return CacheType::float32;
  return language_model != Precision::fp16 && attends_in_bfloat16 ? CacheType::bfloat16 : CacheType::float16;
}

std::size_t default_cache_tokens(std::size_t trained, std::optional<std::uint64_t> per_token,
                                 std::uint64_t weights, std::optional<std::uint64_t> usable) {
  const std::size_t most = std::min(most_default_tokens, trained);
  if (!per_token || !usable) return std::min(most, without_knowledge_tokens);
  const std::uint64_t left = *usable > weights ? *usable - weights : 0;
  const std::uint64_t tokens = left / 4 / *per_token / rounded_to * rounded_to;
  return std::min<std::size_t>(most, std::max<std::size_t>(least_default_tokens, tokens));
}

void check_memory(std::size_t cache_tokens, std::uint64_t per_token, std::uint64_t usable) {
  const std::uint64_t needed = per_token * cache_tokens;
  const std::uint64_t left = usable - usable / 16;
  if (needed <= left) return;
  const std::uint64_t fits = left / per_token / cache_block * cache_block;
  const std::string advice = fits > 0
                                 ? "Load the model with cache_tokens=" + std::to_string(fits) + " or fewer"
                                 : "Close other programs";
  throw DeviceError("a KV cache of " + std::to_string(cache_tokens) + " tokens takes " + readable(needed) +
                    ", and this process can have " + readable(left) +
                    " of memory: " + readable(needed - left) + " are missing. " + advice +
                    ", or choose a cache_type that takes less.");
}

CacheSize cache_size(const RopeFacts& rope, std::optional<std::int64_t> cache_tokens,
                     std::optional<std::int64_t> max_context, std::size_t unasked) {
  std::optional<std::size_t> context;
  if (max_context) {
    context = checked(kMaxContext, *max_context);
    if (*context > rope.longest_context()) {
      throw PromptError("max_context=" + std::to_string(*context) +
                        ": this model is made for contexts of up to " +
                        std::to_string(rope.longest_context()) + " tokens.");
    }
  }
  const std::size_t cache =
      cache_tokens ? checked(kCacheTokens, *cache_tokens) : std::max(unasked, context.value_or(0));
  if (!context) return {cache, std::min(cache, rope.max_positions)};
  if (*context > cache) {
    throw PromptError("max_context=" + std::to_string(*context) +
                      " is more than the cache_tokens=" + std::to_string(cache) +
                      " that all answers share. Give cache_tokens=" + std::to_string(*context) +
                      " or more, or leave it out.");
  }
  return {cache, *context};
}

}  // namespace internvl
