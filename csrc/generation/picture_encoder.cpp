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

std::span<const std::uint8_t> pixels_of(std::span<const std::uint8_t> tiles, const PictureFacts& facts,
                                        std::size_t tile) {
  return tiles.subspan(tile * facts.tile_bytes(), facts.tile_bytes());
}

// Of pixels [tiles, tile_size, tile_size, 3].
std::vector<TileKey> keys_of(std::span<const std::uint8_t> tiles, const PictureFacts& facts,
                             ThreadTeam& team) {
  std::vector<TileKey> keys(tiles.size() / facts.tile_bytes());
  const std::array<std::uint64_t, 3> shape{facts.tile_size, facts.tile_size, rgb_channels};
  team.for_each_range(keys.size(), 1, [&](std::size_t tile, std::size_t) {
    Sha256 hash;
    hash.update(std::as_bytes(std::span(shape)));
    hash.update(std::as_bytes(pixels_of(tiles, facts, tile)));
    keys[tile] = hash.finish();
  });
  return keys;
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

Picture cut_picture(Picture picture, const PictureFacts& facts, ThreadTeam& team, TileCache& cache,
                    std::string_view salt) {
  if (picture.pixels.pixels == nullptr) return picture;
  const TilePlan plan = plan_tiles(picture.pixels.width, picture.pixels.height, picture.tiling);
  const auto tiles = static_cast<std::size_t>(plan.tiles());
  auto cut = std::make_shared<CutPicture>();
  cut->grid = plan.grid;
  cut->pixels = std::make_unique_for_overwrite<std::uint8_t[]>(tiles * facts.tile_bytes());
  write_tiles(picture.pixels, plan, cut->pixels.get(), team);
  const std::span<const std::uint8_t> pixels(cut->pixels.get(), tiles * facts.tile_bytes());
  cut->keys = keys_of(pixels, facts, team);
  cut->similar.resize(tiles);
  for (std::size_t i = 0; i < tiles && salt.empty(); ++i) {
    if (cache.find(cut->keys[i]) != nullptr) continue;
    if (const auto key = cache.find_similar(plan.grid, tiles, i, pixels_of(pixels, facts, i))) {
      cut->similar[i] = cache.find(*key);
      if (cut->similar[i] != nullptr) cut->keys[i] = *key;
    }
  }
  Picture made;
  made.tiling = picture.tiling;
  made.cut = std::move(cut);
  return made;
}

EncodedPicture PictureEncoder::encode(const CutPicture& picture, std::size_t known) {
  progress_(tiles_.size());
  const std::size_t tiles = picture.tiles();
  const auto keys = std::span(picture.keys).subspan(known);
  look_up(picture, known);
  encode_new({picture.pixels.get() + known * facts_.tile_bytes(), keys.size() * facts_.tile_bytes()}, keys);

  const std::size_t size = facts_.tokens_per_tile * facts_.hidden;
  EncodedPicture encoded{.features = std::vector<float>(tiles * size),
                         .tile_tokens = std::vector(tiles, facts_.tokens_per_tile),
                         .grid = picture.grid,
                         .tokens_per_tile = facts_.tokens_per_tile,
                         .keys = picture.keys,
                         .cached_tiles = known};
  std::vector<bool> compressed(tiles);
  if (facts_.flash) {
    std::vector<float> scores;
    scores.reserve(tiles);
    for (const TileKey& key : encoded.keys) scores.push_back(tiles_.at(key).tile->score);
    compressed = compressible(scores, *facts_.flash);
  }
  for (std::size_t i = known; i < tiles; ++i) {
    const Known& found = tiles_.at(encoded.keys[i]);
    const std::vector<float>& features = compressed[i] ? found.tile->compressed : found.tile->features;
    std::ranges::copy(features, encoded.features.begin() + static_cast<std::ptrdiff_t>(i * size));
    if (compressed[i]) encoded.tile_tokens[i] = facts_.tokens_per_compressed_tile;
    if (found.cached) ++encoded.cached_tiles;
  }
  if (cache_.compares() && salt_.empty()) cache_.remember({picture.grid, encoded.keys});
  return encoded;
}

TileKey PictureEncoder::cache_key(const TileKey& key) const { return key + std::string(salt_); }

void PictureEncoder::look_up(const CutPicture& picture, std::size_t known) {
  for (std::size_t i = known; i < picture.tiles(); ++i) {
    const TileKey& key = picture.keys[i];
    if (tiles_.contains(key)) continue;
    std::shared_ptr<const EncodedTile> tile = picture.similar[i];
    if (tile == nullptr) tile = cache_.find(cache_key(key));
    if (tile != nullptr) tiles_.emplace(key, Known{std::move(tile), true});
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
      const auto tile = pixels_of(tiles, facts_, place);
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
      const auto pixels = pixels_of(tiles, facts_, i);
      tile.pixels.assign(pixels.begin(), pixels.end());
    }
    const TileKey& key = keys[places[i]];
    const auto made = std::make_shared<const EncodedTile>(std::move(tile));
    tiles_.emplace(key, Known{made, false});
    cache_.keep(cache_key(key), made);
  }
}

}  // namespace internvl
