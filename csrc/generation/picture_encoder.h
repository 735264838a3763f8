// From the pictures of one request to the image features that stand in its prompt.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "bundle/manifest.h"
#include "generation/engine.h"
#include "generation/tile_cache.h"
#include "image/tile.h"
#include "runtime/thread_team.h"

namespace internvl {

// A picture that is to be cut into tiles and encoded, or one that is encoded already.
struct Picture {
  ImageView pixels{};                    // without pixels: the features below
  TilingOptions tiling{};                // how it is cut
  std::span<const float> features;       // [tokens, hidden], those of every tile that count
  std::vector<std::size_t> tile_tokens;  // [tiles], of the features
  std::shared_ptr<const void> owner;     // of the memory that this points to

  bool encoded() const { return pixels.pixels == nullptr; }
};

struct EncodedPicture {
  std::vector<float> features;           // [tiles, tokens_per_tile, hidden]; zeros behind those that count
  std::vector<std::size_t> tile_tokens;  // [tiles]: so many of a tile's features count
  Grid grid{};
  std::size_t tokens_per_tile = 0;
  std::vector<TileKey> keys;     // [tiles]: of what was encoded
  std::size_t cached_tiles = 0;  // of the tiles, those that the cache had

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

// Encodes the pictures of one request. Blank margins, letterbox bars and the frames of a camera that sees
// nothing move make tiles that are equal byte for byte: they are encoded once, whichever picture they are of,
// and not at all where the cache has them.
class PictureEncoder {
 public:
  // `progress`: called on the way, also in the middle of a tile, with the number of tiles that were encoded,
  // repeated ones not counted. What it throws ends the encoding. The references have to stay.
  PictureEncoder(Engine& engine, const PictureFacts& facts, ThreadTeam& team, TileCache& cache,
                 Engine::Progress progress)
      : engine_(engine), facts_(facts), team_(team), cache_(cache), progress_(std::move(progress)) {}

  // Of a picture that is not encoded yet. Throws ImageError if a size is out of range.
  EncodedPicture encode(const Picture& picture);

  const PictureTimings& timings() const { return timings_; }

 private:
  struct Known {
    std::shared_ptr<const EncodedTile> tile;
    bool cached;  // before the request
  };

  std::vector<TileKey> keys_of(std::span<const std::uint8_t> tiles) const;
  std::span<const std::uint8_t> pixels_of(std::span<const std::uint8_t> tiles, std::size_t tile) const;
  void look_up(const Grid& grid, std::span<const std::uint8_t> tiles, std::span<TileKey> keys);
  void encode_new(std::span<const std::uint8_t> tiles, std::span<const TileKey> keys);

  Engine& engine_;
  const PictureFacts& facts_;
  ThreadTeam& team_;
  TileCache& cache_;
  Engine::Progress progress_;
  PictureTimings timings_;
  std::unordered_map<TileKey, Known> tiles_;  // of the request so far
};

}  // namespace internvl
