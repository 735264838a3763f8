#include "ops/cpu/pixel_shuffle.h"

#include <cstring>
#include <string>

#include "runtime/error.h"

namespace internvl {

void pixel_shuffle(std::span<const float> in, const PixelShuffleShape& shape, PixelShuffleVersion version,
                   std::span<float> out, ThreadTeam& team) {
  if (shape.block == 0 || shape.side % shape.block != 0) {
    throw ImageError("The pixel shuffle's block is " + std::to_string(shape.block) +
                     " patches wide; expected a divisor of the tile's " + std::to_string(shape.side) +
                     " patches.");
  }
  const std::size_t in_tile = (1 + shape.side * shape.side) * shape.channels;
  const std::size_t out_tile = shape.tokens() * shape.token_channels();
  if (in.size() != shape.tiles * in_tile || out.size() != shape.tiles * out_tile) {
    throw ImageError("The pixel shuffle's arrays do not have the sizes that their shape says.");
  }
  team.for_each_range(
      shape.tiles * shape.tokens(), shape.side / shape.block, [&](std::size_t begin, std::size_t end) {
        for (std::size_t token = begin; token < end; ++token) {
          pixel_shuffle_token(in.data(), shape, version, token, out.data() + token * shape.token_channels());
        }
      });
}

void pixel_shuffle_token(const float* in, const PixelShuffleShape& shape, PixelShuffleVersion version,
                         std::size_t token, float* out) {
  const std::size_t blocks = shape.side / shape.block;   // along one side
  const std::size_t run = shape.block * shape.channels;  // neighbours in a row of patches stay neighbours
  const std::size_t tile = token / shape.tokens();
  const std::size_t slow = token % shape.tokens() / blocks;
  const std::size_t fast = token % blocks;
  const std::size_t block_row = version == PixelShuffleVersion::v2 ? slow : fast;
  const std::size_t block_column = version == PixelShuffleVersion::v2 ? fast : slow;
  const float* patches = in + (tile * (1 + shape.side * shape.side) + 1) * shape.channels;
  for (std::size_t row = 0; row < shape.block; ++row) {
    const std::size_t patch = (block_row * shape.block + row) * shape.side + block_column * shape.block;
    std::memcpy(out + row * run, patches + patch * shape.channels, run * sizeof(float));
  }
}

}  // namespace internvl
