#pragma once

#include <cstddef>

#include "ops/norm_kind.h"
#include "ops/pixel_shuffle_shape.h"

namespace internvl {

// What the vision side is: InternViT, pixel shuffle and projector. Mirrors Vision and Projector of the
// bundle's manifest.
struct VisionFacts {
  std::size_t hidden_size;
  std::size_t layers;
  std::size_t heads;
  std::size_t intermediate_size;
  std::size_t image_size;  // pixels along a tile's side
  std::size_t patch_size;
  NormKind norm;
  float norm_eps;
  bool qkv_bias;
  bool qk_norm;            // RMSNorm over all channels of the queries and of the keys, before they are heads
  std::size_t downsample;  // patches along one side of the block that becomes one image token
  PixelShuffleVersion pixel_shuffle;
  float projector_norm_eps;
  std::size_t output_size;  // the language model's hidden_size

  std::size_t head_dim() const { return hidden_size / heads; }
  std::size_t grid() const { return image_size / patch_size; }
  std::size_t patches() const { return grid() * grid(); }
  std::size_t tokens() const { return 1 + patches(); }  // of a tile, in the tower: the class token first
  std::size_t image_tokens() const { return patches() / (downsample * downsample); }
  std::size_t patch_values() const { return 3 * patch_size * patch_size; }
  std::size_t block_channels() const { return hidden_size * downsample * downsample; }
  std::size_t tile_pixels() const { return 3 * image_size * image_size; }
};

}  // namespace internvl
