#include <cstdint>
#include <optional>
#include <string>

#include "check.h"
#include "generation/cache_size.h"
#include "runtime/readable_size.h"

namespace internvl {
namespace {

constexpr std::uint64_t gb = 1'000'000'000;

TEST("the cache is the trained length, as far as a quarter of the memory holds it") {
  // Qwen2.5-0.5B in float16: 12288 bytes a token.
  const std::uint64_t per_token = kv_bytes_per_token(24, 2, 64, CacheType::float16);
  CHECK(per_token == 12288);
  CHECK(default_cache_tokens(32768, per_token, gb, 8 * gb) == 32768);
  CHECK(default_cache_tokens(131072, per_token, gb, 64 * gb) == 32768);
  CHECK(default_cache_tokens(32768, per_token, 0, gb) == 19456);
  CHECK(default_cache_tokens(32768, per_token, 2 * gb, gb) == 4096);
  CHECK(default_cache_tokens(512, per_token, 2 * gb, gb) == 512);
  CHECK(default_cache_tokens(32768, per_token, gb, std::nullopt) == 8192);
  CHECK(default_cache_tokens(32768, std::nullopt, gb, 8 * gb) == 8192);
}

TEST("an element of int8 is a byte, and a head has a scale") {
  CHECK(kv_bytes_per_token(1, 1, 64, CacheType::float32) == 512);
  CHECK(kv_bytes_per_token(1, 1, 64, CacheType::bfloat16) == 256);
  CHECK(kv_bytes_per_token(1, 1, 64, CacheType::int8) == 136);
}

TEST("a cache is stored in half of the bytes unless the model is fp32") {
  CHECK(default_cache_type(Precision::fp32, true) == CacheType::float32);
  CHECK(default_cache_type(Precision::fp16, true) == CacheType::float16);
  CHECK(default_cache_type(Precision::int4, true) == CacheType::bfloat16);
  CHECK(default_cache_type(Precision::bf16, false) == CacheType::float16);
}

TEST("a context is as long as the cache and the model, or as was asked for") {
  RopeFacts rope{10000.0, true, 2.0, 1000};
  CHECK(cache_size(rope, 4096, std::nullopt, 0).context_tokens == 1000);
  CHECK(cache_size(rope, 600, std::nullopt, 0).context_tokens == 600);
  CHECK(cache_size(rope, 4096, 2000, 0).context_tokens == 2000);
  CHECK(cache_size(rope, std::nullopt, 2000, 1000).cache_tokens == 2000);
  CHECK(cache_size(rope, std::nullopt, std::nullopt, 3000).cache_tokens == 3000);
  CHECK_THROWS(PromptError, cache_size(rope, 4096, 2001, 0));
  CHECK_THROWS(PromptError, cache_size(rope, 100, 101, 0));
  CHECK_THROWS(PromptError, cache_size(rope, 0, std::nullopt, 0));
  CHECK_THROWS(PromptError, cache_size(rope, kCacheTokens.most + 1, std::nullopt, 0));
  CHECK_THROWS(PromptError, cache_size(rope, 4096, -1, 0));
  rope.dynamic = false;
  CHECK_THROWS(PromptError, cache_size(rope, 4096, 1001, 0));
}

TEST("memory that does not hold the cache is told") {
  check_memory(1000, 1000, 2'000'000);
  CHECK_THROWS(DeviceError, (check_memory(1000, 1000, 1'000'000), 0));
  CHECK_THROWS(DeviceError, (check_memory(1000, 1000, 100), 0));
}

TEST("bytes are shown in the unit that fits") {
  CHECK(readable_size(812) == "812 B");
  CHECK(readable_size(1536) == "1.50 KiB");
  CHECK(readable_size(5.0 * 1024 * 1024 * 1024 * 1024) == "5120.00 GiB");
}

}  // namespace
}  // namespace internvl

int main() { return internvl::test::run_all(); }
