#include "generation/picture_encoder.h"

#include <algorithm>
#include <array>
#include <chrono>

#include "generation/milliseconds.h"
#include "model/compressible.h"
#include "runtime/error.h"
#include "runtime/sha256.h"

namespace internvl {
namespace {

std::vector<float> slice(const std::vector<float>& values, std::size_t part, std::size_t parts) {
  const std::size_t size = values.size() / parts;
  const auto begin = values.begin() + static_cast<std::ptrdiff_t>(part * size);
  return {begin, begin + static_cast<std::ptrdiff_t>(size)};
}

}  // namespace

PictureFacts::PictureFacts(const Manifest& manifest)
    : tile_size(manifest.vision.image_size),
      tokens_per_tile(manifest.vision.image_tokens()),
      tokens_per_compressed_tile(manifest.flash ? manifest.flash->tokens(manifest.vision) : 0),
      hidden(manifest.llm.decoder.hidden_size),
      flash(manifest.flash) {}

void remove_spare_places(std::vector<std::int64_t>& ids, std::int64_t image_context_id,
                         std::size_t tokens_per_tile, std::span<const std::size_t> tile_tokens) {
  std::size_t place = 0;
  std::erase_if(ids, [&](std::int64_t id) {
    if (id != image_context_id) return false;
    const std::size_t tile = place / tokens_per_tile;
    const std::size_t token = place++ % tokens_per_tile;
    return tile < tile_tokens.size() && token >= tile_tokens[tile];
  });
}

EncodedPicture PictureEncoder::encode(const Picture& picture) {
  progress_(tiles_.size());
  const auto begun = std::chrono::steady_clock::now();
  const TilePlan plan = plan_tiles(picture.pixels.width, picture.pixels.height, picture.tiling);
  const auto tiles = static_cast<std::size_t>(plan.tiles());
  const std::size_t bytes = tiles * facts_.tile_bytes();
  const auto pixels = std::make_unique_for_overwrite<std::uint8_t[]>(bytes);
  write_tiles(picture.pixels, plan, pixels.get(), team_);
  std::vector<TileKey> keys = keys_of({pixels.get(), bytes});
  timings_.tile += milliseconds_since(begun);
  look_up(plan.grid, {pixels.get(), bytes}, keys);
  encode_new({pixels.get(), bytes}, keys);

  const std::size_t size = facts_.tokens_per_tile * facts_.hidden;
  EncodedPicture encoded{.features = std::vector<float>(tiles * size),
                         .tile_tokens = std::vector(tiles, facts_.tokens_per_tile),
                         .grid = plan.grid,
                         .tokens_per_tile = facts_.tokens_per_tile,
                         .keys = std::move(keys)};
  std::vector<bool> compressed(tiles);
  if (facts_.flash) {
    std::vector<float> scores;
    scores.reserve(tiles);
    for (const TileKey& key : encoded.keys) scores.push_back(tiles_.at(key).tile->score);
    compressed = compressible(scores, *facts_.flash);
  }
  for (std::size_t i = 0; i < tiles; ++i) {
    const Known& known = tiles_.at(encoded.keys[i]);
    const std::vector<float>& features = compressed[i] ? known.tile->compressed : known.tile->features;
    std::ranges::copy(features, encoded.features.begin() + static_cast<std::ptrdiff_t>(i * size));
    if (compressed[i]) encoded.tile_tokens[i] = facts_.tokens_per_compressed_tile;
    if (known.cached) ++encoded.cached_tiles;
  }
  if (cache_.compares()) cache_.remember({plan.grid, encoded.keys});
  return encoded;
}

std::span<const std::uint8_t> PictureEncoder::pixels_of(std::span<const std::uint8_t> tiles,
                                                        std::size_t tile) const {
  return tiles.subspan(tile * facts_.tile_bytes(), facts_.tile_bytes());
}

// Of pixels [tiles, tile_size, tile_size, 3].
std::vector<TileKey> PictureEncoder::keys_of(std::span<const std::uint8_t> tiles) const {
  std::vector<TileKey> keys(tiles.size() / facts_.tile_bytes());
  const std::array<std::uint64_t, 3> shape{facts_.tile_size, facts_.tile_size, rgb_channels};
  team_.for_each_range(keys.size(), 1, [&](std::size_t tile, std::size_t) {
    Sha256 hash;
    hash.update(std::as_bytes(std::span(shape)));
    hash.update(std::as_bytes(pixels_of(tiles, tile)));
    keys[tile] = hash.finish();
  });
  return keys;
}

// Finds the tiles that the cache has. A tile that is similar to one of them becomes that one.
void PictureEncoder::look_up(const Grid& grid, std::span<const std::uint8_t> tiles, std::span<TileKey> keys) {
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (tiles_.contains(keys[i])) continue;
    auto tile = cache_.find(keys[i]);
    if (tile == nullptr) {
      const auto similar = cache_.find_similar(grid, keys.size(), i, pixels_of(tiles, i));
      if (similar) tile = cache_.find(*similar);
      if (tile != nullptr) keys[i] = *similar;
    }
    if (tile != nullptr) tiles_.try_emplace(keys[i], Known{std::move(tile), true});
  }
}

void PictureEncoder::encode_new(std::span<const std::uint8_t> tiles, std::span<const TileKey> keys) {
  std::vector<std::size_t> places;  // of tiles that were not seen before
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const bool repeated = std::find_if(places.begin(), places.end(), [&](std::size_t place) {
                            return keys[place] == keys[i];
                          }) != places.end();
    if (!repeated && !tiles_.contains(keys[i])) places.push_back(i);
  }
  if (places.empty()) return;
  std::vector<std::uint8_t> moved;
  if (places.size() < keys.size()) {
    for (const std::size_t place : places) {
      const auto tile = pixels_of(tiles, place);
      moved.insert(moved.end(), tile.begin(), tile.end());
    }
    tiles = moved;
  }
  const std::size_t before = tiles_.size();
  const EncodedTiles encoded =
      engine_.encode(tiles, places.size(), [&](std::size_t done) { progress_(before + done); });
  const std::size_t rows = places.size() * facts_.hidden;
  if (encoded.features.size() != rows * facts_.tokens_per_tile ||
      (facts_.flash && (encoded.scores.size() != places.size() ||
                        encoded.compressed.size() != rows * facts_.tokens_per_compressed_tile))) {
    throw Error("the engine gave other features than " + std::to_string(places.size()) + " tiles have.");
  }
  timings_.vit += encoded.vit_ms;
  timings_.projector += encoded.projector_ms;
  for (std::size_t i = 0; i < places.size(); ++i) {
    EncodedTile tile;
    tile.features = slice(encoded.features, i, places.size());
    tile.compressed = slice(encoded.compressed, i, places.size());
    if (!encoded.scores.empty()) tile.score = encoded.scores[i];
    if (cache_.compares()) {
      const auto pixels = pixels_of(tiles, i);
      tile.pixels.assign(pixels.begin(), pixels.end());
    }
    const TileKey& key = keys[places[i]];
    const auto made = std::make_shared<const EncodedTile>(std::move(tile));
    tiles_.emplace(key, Known{made, false});
    cache_.keep(key, made);
  }
}

}  // namespace internvl
