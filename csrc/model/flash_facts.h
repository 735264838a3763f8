#pragma once

#include <cstddef>

#include "model/vision_facts.h"

namespace internvl {

// Residual blocks of the resolution router.
inline constexpr std::size_t kFlashBlocks = 4;

// The resolution router of InternVL3.5-Flash. Mirrors Flash of the bundle's manifest.
struct FlashFacts {
  std::size_t downsample;  // as the projector's, of compressed tiles
  std::size_t heads;
  double relative_threshold;
  double absolute_threshold;

  std::size_t tokens(const VisionFacts& vision) const { return vision.patches() / (downsample * downsample); }
  std::size_t block_channels(const VisionFacts& vision) const {
    return vision.hidden_size * downsample * downsample;
  }
};

}  // namespace internvl
