// Counter-based random numbers: Philox 4x32 with ten rounds (Salmon et al., Parallel random numbers: as easy
// as 1, 2, 3, 2011). A number is a function of key and counter alone, so streams need no state beside a
// count.
#pragma once

#include <array>
#include <cstdint>

namespace internvl {

std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key);

// Uniform numbers of one stream of a seed.
class RandomStream {
 public:
  explicit RandomStream(std::uint64_t seed) : RandomStream(seed, 0) {}

  // Uniform in [0, 1), 53 bits.
  double uniform();

  // Another stream of the same seed. It depends on this stream and `index`, not on how many numbers were
  // drawn.
  RandomStream fork(std::uint64_t index) const;

 private:
  RandomStream(std::uint64_t seed, std::uint64_t stream) : seed_(seed), stream_(stream) {}

  std::uint64_t seed_;
  std::uint64_t stream_;
  std::uint64_t drawn_ = 0;
};

}  // namespace internvl
