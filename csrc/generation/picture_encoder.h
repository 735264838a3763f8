// From the pictures of one request to the image features that stand in its prompt.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "bundle/manifest.h"
#include "generation/engine.h"
#include "generation/tile_cache.h"
#include "image/tile.h"
#include "runtime/thread_team.h"

namespace internvl {

// The tiles of a picture.
struct CutPicture {
  std::unique_ptr<std::uint8_t[]> pixels;  // [tiles, tile_size, tile_size, 3]
  // [tiles]: of a tile that is similar to one that was encoded before, that one's, which takes its place
  std::vector<TileKey> keys;
  std::vector<std::shared_ptr<const EncodedTile>> similar;  // [tiles]: then; else null
  Grid grid{};

  std::size_t tiles() const { return keys.size(); }
};

// A picture that is to be cut into tiles and encoded, one that was cut, or one that is encoded already.
struct Picture {
  ImageView pixels{};      // without pixels: what follows the tiling
  TilingOptions tiling{};  // how it is cut
  std::shared_ptr<const CutPicture> cut;
  std::span<const float> features;       // [tokens, hidden], those of every tile that count
  std::vector<std::size_t> tile_tokens;  // [tiles], of the features
  std::shared_ptr<const void> owner;     // of the memory that this points to

  bool encoded() const { return pixels.pixels == nullptr && cut == nullptr; }
};

struct EncodedPicture {
  std::vector<float> features;           // [tiles, tokens_per_tile, hidden]; zeros behind those that count
  std::vector<std::size_t> tile_tokens;  // [tiles]: so many of a tile's features count
  Grid grid{};
  std::size_t tokens_per_tile = 0;
  std::vector<TileKey> keys;     // [tiles]: of what was encoded
  std::size_t cached_tiles = 0;  // of the tiles, those that were not encoded now

  std::size_t tiles() const { return tile_tokens.size(); }
};

// Milliseconds.
struct PictureTimings {
  double tile = 0.0;
  double vit = 0.0;
  double projector = 0.0;
};

// What encoding pictures takes from a bundle's manifest.
struct PictureFacts {
  explicit PictureFacts(const Manifest& manifest);

  std::size_t tile_bytes() const { return tile_size * tile_size * rgb_channels; }

  std::size_t tile_size;
  std::size_t tokens_per_tile;
  std::size_t tokens_per_compressed_tile;  // of a model with a resolution router
  std::size_t hidden;
  std::optional<FlashFacts> flash;
};

// A prompt has places for all tokens of its tiles, before it is known whether they need them. Removes those
// behind the first tile_tokens[i] of every tile.
void remove_spare_places(std::vector<std::int64_t>& ids, std::int64_t image_context_id,
                         std::size_t tokens_per_tile, std::span<const std::size_t> tile_tokens);

// Cuts a picture into its tiles; one that was cut or is encoded already stays as it is. The memory that its
// pixels are in is not used any more. Throws ImageError if a size is out of range.
// Tiles are compared with those of `cache` for requests without a salt.
Picture cut_picture(Picture picture, const PictureFacts& facts, ThreadTeam& team, TileCache& cache,
                    std::string_view salt);

// Encodes the pictures of one request. Blank margins, letterbox bars and the frames of a camera that sees
// nothing move make tiles that are equal byte for byte: they are encoded once, whichever picture they are of,
// and not at all where the cache has them.
class PictureEncoder {
 public:
  // `progress`: called on the way, also in the middle of a tile, with the number of tiles that were encoded,
  // repeated ones not counted. What it throws ends the encoding. The references have to stay.
  // Tiles that other requests have encoded are taken for those with the same `salt` only.
  PictureEncoder(Engine& engine, const PictureFacts& facts, TileCache& cache, std::string_view salt,
                 Engine::Progress progress)
      : engine_(engine), facts_(facts), cache_(cache), salt_(salt), progress_(std::move(progress)) {}

  // The first `known` tiles are not needed: their features are zeros. All are where there is a router.
  EncodedPicture encode(const CutPicture& picture, std::size_t known = 0);

  const PictureTimings& timings() const { return timings_; }

 private:
  struct Known {
    std::shared_ptr<const EncodedTile> tile;
    bool cached;  // before the request
  };

  TileKey cache_key(const TileKey& key) const;
  void look_up(const CutPicture& picture, std::size_t known);
  void encode_new(std::span<const std::uint8_t> tiles, std::span<const TileKey> keys);

  Engine& engine_;
  const PictureFacts& facts_;
  TileCache& cache_;
  std::string_view salt_;
  Engine::Progress progress_;
  PictureTimings timings_;
  std::unordered_map<TileKey, Known> tiles_;  // of the request so far
};

}  // namespace internvl
