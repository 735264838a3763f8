// SHA-256 (FIPS 180-4).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace internvl {

class Sha256 {
 public:
  void update(std::span<const std::byte> bytes);

  // Of everything so far, as 64 hexadecimal digits; afterwards it begins anew.
  std::string finish();

 private:
  static constexpr std::size_t kBlock = 64;
  using State = std::array<std::uint32_t, 8>;
  static constexpr State kInitial = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                     0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

  void compress(const std::byte* block);

  State state_ = kInitial;
  std::array<std::byte, kBlock> held_{};
  std::uint64_t bytes_ = 0;
};

}  // namespace internvl
