#include "runtime/sha256.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace internvl {
namespace {

constexpr std::array<std::uint32_t, 64> kConstants = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

using Words = std::array<std::uint32_t, 16>;

std::uint32_t big_endian(const std::byte* bytes) {
  std::uint32_t word = 0;
  for (int i = 0; i < 4; ++i) word = word << 8 | std::to_integer<std::uint32_t>(bytes[i]);
  return word;
}

// Instead of the eight working variables, the place that each stands in moves from round to round.
template <std::size_t kRound>
void round(std::array<std::uint32_t, 8>& s, std::uint32_t input) {
  const auto place = [](std::size_t variable) { return (variable + 64 - kRound) % 8; };
  const std::uint32_t a = s[place(0)];
  const std::uint32_t b = s[place(1)];
  const std::uint32_t c = s[place(2)];
  const std::uint32_t e = s[place(4)];
  const std::uint32_t f = s[place(5)];
  const std::uint32_t g = s[place(6)];
  const std::uint32_t first =
      s[place(7)] + input + ((e & f) ^ (~e & g)) + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25));
  const std::uint32_t second =
      ((a & b) ^ (a & c) ^ (b & c)) + (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22));
  s[place(3)] += first;
  s[place(7)] = first + second;
}

template <std::size_t... kRounds>
void rounds(std::array<std::uint32_t, 8>& s, const std::uint32_t* constants, const Words& words,
            std::index_sequence<kRounds...>) {
  (round<kRounds>(s, constants[kRounds] + words[kRounds]), ...);
}

void next_words(Words& w) {
  for (std::size_t i = 0; i < 16; ++i) {
    const std::uint32_t x = w[(i + 1) % 16];
    const std::uint32_t y = w[(i + 14) % 16];
    w[i] += w[(i + 9) % 16] + (std::rotr(x, 7) ^ std::rotr(x, 18) ^ x >> 3) +
            (std::rotr(y, 17) ^ std::rotr(y, 19) ^ y >> 10);
  }
}

}  // namespace

void Sha256::compress(const std::byte* block) {
  Words words{};
  for (std::size_t i = 0; i < 16; ++i) words[i] = big_endian(block + 4 * i);
  State s = state_;
  for (std::size_t first = 0; first < 64; first += 16) {
    if (first > 0) next_words(words);
    rounds(s, kConstants.data() + first, words, std::make_index_sequence<16>());
  }
  for (std::size_t i = 0; i < s.size(); ++i) state_[i] += s[i];
}

void Sha256::update(std::span<const std::byte> bytes) {
  const std::size_t held = bytes_ % kBlock;
  bytes_ += bytes.size();
  if (held > 0) {
    const std::size_t taken = std::min(kBlock - held, bytes.size());
    std::copy_n(bytes.begin(), taken, held_.begin() + static_cast<std::ptrdiff_t>(held));
    if (held + taken < kBlock) return;
    compress(held_.data());
    bytes = bytes.subspan(taken);
  }
  for (; bytes.size() >= kBlock; bytes = bytes.subspan(kBlock)) compress(bytes.data());
  std::ranges::copy(bytes, held_.begin());
}

std::string Sha256::finish() {
  // A one, zeros up to the last eight bytes of a block, and the length in bits.
  std::array<std::byte, kBlock + 8> end{std::byte{0x80}};
  const std::size_t padding = (2 * kBlock - 9 - bytes_ % kBlock) % kBlock + 1;
  const std::uint64_t bits = bytes_ * 8;
  for (std::size_t i = 0; i < 8; ++i) end[padding + i] = static_cast<std::byte>(bits >> (56 - 8 * i));
  update(std::span(end).first(padding + 8));

  static constexpr const char* kDigits = "0123456789abcdef";
  std::string text;
  for (const std::uint32_t word : state_) {
    for (int shift = 28; shift >= 0; shift -= 4) text.push_back(kDigits[word >> shift & 15]);
  }
  *this = Sha256();
  return text;
}

}  // namespace internvl
