// Pixel shuffle: blocks of neighbouring patches become one image token with their channels side by side.
#pragma once

#include <cstddef>

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

}  // namespace internvl
