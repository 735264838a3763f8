// Pixel shuffle: blocks of neighbouring patches become one image token with their channels side by side.
#pragma once

#include <cstddef>
#include <span>

#include "runtime/thread_team.h"

namespace internvl {

// The order of the tokens: v2 goes through the blocks row by row, v1 column by column.
enum class PixelShuffleVersion { v1, v2 };

struct PixelShuffleShape {
  std::size_t tiles;
  std::size_t side;      // patches along one side of a tile
  std::size_t channels;  // of a patch
  std::size_t block;     // patches along one side of a block

  std::size_t tokens() const { return (side / block) * (side / block); }
  std::size_t token_channels() const { return block * block * channels; }
};

// A token's channels are those of its block's patches, row by row.
// in: [tiles, 1 + side * side, channels], the class token first; it is dropped.
// out: [tiles, tokens, token_channels]
// Throws ImageError if the block does not divide the side or the spans are of other sizes.
void pixel_shuffle(std::span<const float> in, const PixelShuffleShape& shape, PixelShuffleVersion version,
                   std::span<float> out, ThreadTeam& team);

// One token of the above, [token_channels]; `token` counts through all tiles.
void pixel_shuffle_token(const float* in, const PixelShuffleShape& shape, PixelShuffleVersion version,
                         std::size_t token, float* out);

}  // namespace internvl
