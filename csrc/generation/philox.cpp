#include "generation/philox.h"

namespace internvl {
namespace {

std::uint32_t low(std::uint64_t value) { return static_cast<std::uint32_t>(value); }
std::uint32_t high(std::uint64_t value) { return static_cast<std::uint32_t>(value >> 32); }
std::uint64_t join(std::uint32_t low_half, std::uint32_t high_half) {
  return static_cast<std::uint64_t>(high_half) << 32 | low_half;
}

}  // namespace

std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
  constexpr std::uint64_t multipliers[] = {0xD2511F53, 0xCD9E8D57};
  constexpr std::uint32_t increments[] = {0x9E3779B9, 0xBB67AE85};
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t first = multipliers[0] * counter[0];
    const std::uint64_t second = multipliers[1] * counter[2];
    counter = {high(second) ^ counter[1] ^ key[0], low(second), high(first) ^ counter[3] ^ key[1],
               low(first)};
    key = {key[0] + increments[0], key[1] + increments[1]};
  }
  return counter;
}

double RandomStream::uniform() {
  const auto bits =
      philox({low(drawn_), high(drawn_), low(stream_), high(stream_)}, {low(seed_), high(seed_)});
  ++drawn_;
  return static_cast<double>(join(bits[0], bits[1]) >> 11) * 0x1p-53;
}

RandomStream RandomStream::fork(std::uint64_t index) const {
  // Numbered by the cipher itself under another key, so that streams do not collide by arithmetic.
  const std::uint64_t key = seed_ ^ 0x666F726B'666F726BU;
  const auto bits = philox({low(index), high(index), low(stream_), high(stream_)}, {low(key), high(key)});
  return {seed_, join(bits[2], bits[3])};
}

}  // namespace internvl
