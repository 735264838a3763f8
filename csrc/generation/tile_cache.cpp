#include "generation/tile_cache.h"

#include <algorithm>
#include <utility>

#include "runtime/error.h"
#include "runtime/readable_size.h"

namespace internvl {
namespace {

constexpr std::size_t least_default_bytes = std::size_t{64} << 20U;

// Of a tile that is kept: its nodes in the list and in the table, its key, and what the allocator adds.
constexpr std::size_t bookkeeping_bytes = 512;

std::size_t bytes_of(const EncodedTile& tile) {
  return (tile.features.capacity() + tile.compressed.capacity()) * sizeof(float) + tile.pixels.capacity() +
         bookkeeping_bytes;
}

std::size_t bytes_of(const TiledPicture& picture) {
  std::size_t bytes = bookkeeping_bytes;
  for (const TileKey& key : picture.keys) bytes += sizeof(TileKey) + key.capacity();
  return bytes;
}

// In blocks, so that most tiles that differ are known after the first.
bool differs_by_at_most(int tolerance, std::span<const std::uint8_t> a, std::span<const std::uint8_t> b) {
  constexpr std::size_t block = 4096;
  if (a.size() != b.size()) return false;
  for (std::size_t first = 0; first < a.size(); first += block) {
    const std::size_t end = std::min(first + block, a.size());
    std::uint8_t most = 0;
    for (std::size_t i = first; i < end; ++i) {
      const auto difference = static_cast<std::uint8_t>(std::max(a[i], b[i]) - std::min(a[i], b[i]));
      most = std::max(most, difference);
    }
    if (most > tolerance) return false;
  }
  return true;
}

std::string readable(std::uint64_t bytes) { return readable_size(static_cast<double>(bytes)); }

}  // namespace

std::shared_ptr<const EncodedTile> TileCache::find(const TileKey& key) {
  const std::lock_guard lock(mutex_);
  const auto found = places_.find(key);
  if (found == places_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, found->second);
  return found->second->tile;
}

void TileCache::keep(const TileKey& key, std::shared_ptr<const EncodedTile> tile) {
  const std::size_t bytes = bytes_of(*tile);
  if (bytes > most_bytes_) return;
  Entries forgotten;  // freed outside of the lock
  const std::lock_guard lock(mutex_);
  if (const auto found = places_.find(key); found != places_.end()) {
    entries_.splice(entries_.begin(), entries_, found->second);
    return;
  }
  make_room(bytes, forgotten);
  if (bytes_ + bytes > most_bytes_) return;
  entries_.push_front({key, std::move(tile), bytes});
  try {
    places_.emplace(entries_.front().key, entries_.begin());
  } catch (...) {
    entries_.pop_front();
    throw;
  }
  bytes_ += bytes;
}

// The caller holds the mutex.
void TileCache::make_room(std::size_t bytes, Entries& forgotten) {
  while (bytes_ + bytes > most_bytes_ && !entries_.empty()) {
    const auto last = std::prev(entries_.end());
    places_.erase(last->key);
    bytes_ -= last->bytes;
    forgotten.splice(forgotten.begin(), entries_, last);
  }
}

std::optional<TileKey> TileCache::find_similar(const Grid& grid, std::size_t tiles, std::size_t place,
                                               std::span<const std::uint8_t> pixels) {
  if (!compares()) return std::nullopt;
  for (TileKey& key : keys_at(grid, tiles, place)) {
    std::shared_ptr<const EncodedTile> tile;
    {
      const std::lock_guard lock(mutex_);
      if (const auto found = places_.find(key); found != places_.end()) tile = found->second->tile;
    }
    if (tile != nullptr && differs_by_at_most(tolerance_, tile->pixels, pixels)) return std::move(key);
  }
  return std::nullopt;
}

std::vector<TileKey> TileCache::keys_at(const Grid& grid, std::size_t tiles, std::size_t place) const {
  std::vector<TileKey> keys;
  const std::lock_guard lock(mutex_);
  for (const TiledPicture& picture : pictures_) {
    if (picture.grid == grid && picture.keys.size() == tiles) keys.push_back(picture.keys[place]);
  }
  return keys;
}

void TileCache::remember(TiledPicture picture) {
  const std::size_t bytes = bytes_of(picture);
  if (!compares() || bytes > most_bytes_) return;
  Entries forgotten;
  const std::lock_guard lock(mutex_);
  if (pictures_.size() == kComparedPictures) {
    bytes_ -= bytes_of(pictures_.back());
    pictures_.pop_back();
  }
  make_room(bytes, forgotten);
  if (bytes_ + bytes > most_bytes_) return;
  pictures_.push_front(std::move(picture));
  bytes_ += bytes;
}

void TileCache::clear() {
  Entries forgotten;
  const std::lock_guard lock(mutex_);
  places_.clear();
  pictures_.clear();
  forgotten.swap(entries_);
  bytes_ = 0;
}

std::size_t TileCache::bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

std::size_t TileCache::tiles() const {
  const std::lock_guard lock(mutex_);
  return entries_.size();
}

std::size_t tile_cache_bytes(const Manifest& manifest, std::optional<std::int64_t> wanted,
                             std::optional<std::uint64_t> usable) {
  if (!wanted) {
    const std::size_t values =
        manifest.vision.image_tokens() + (manifest.flash ? manifest.flash->tokens(manifest.vision) : 0);
    const std::size_t tile = values * manifest.llm.decoder.hidden_size * sizeof(float) + bookkeeping_bytes;
    const std::size_t tiles = static_cast<std::size_t>(manifest.tiling.options.max_tiles) + 1;
    const std::size_t bytes = std::max(least_default_bytes, 2 * tiles * tile);
    return usable ? std::min<std::size_t>(bytes, *usable / 16) : bytes;
  }
  if (*wanted < 0) {
    throw PromptError("tile_cache_bytes must be 0 or more, not " + std::to_string(*wanted) + ".");
  }
  const auto bytes = static_cast<std::uint64_t>(*wanted);
  if (usable && bytes > *usable) {
    throw DeviceError("a tile cache of " + readable(bytes) + " (tile_cache_bytes) is more than the " +
                      readable(*usable) + " of memory that this process can have. Give fewer.");
  }
  return bytes;
}

void check_frame_tolerance(std::int64_t tolerance, std::size_t cache_bytes) {
  if (tolerance < 0 || tolerance > 255) {
    throw PromptError("frame_tolerance must be from 0 to 255, not " + std::to_string(tolerance) + ".");
  }
  if (tolerance > 0 && cache_bytes == 0) {
    throw PromptError("frame_tolerance=" + std::to_string(tolerance) +
                      " compares with the tiles that are kept, and tile_cache_bytes=0 keeps none. Give one.");
  }
}

}  // namespace internvl
