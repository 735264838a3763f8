// Pixel shuffle on a team of threads.
#pragma once

#include <cstddef>
#include <span>

#include "ops/pixel_shuffle_shape.h"
#include "runtime/thread_team.h"

namespace internvl {

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
