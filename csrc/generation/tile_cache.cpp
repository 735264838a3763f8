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
  return (tile.features.capacity() + tile.compressed.capacity()) * sizeof(float) + bookkeeping_bytes;
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
  while (bytes_ + bytes > most_bytes_) {
    const auto last = std::prev(entries_.end());
    places_.erase(last->key);
    bytes_ -= last->bytes;
    forgotten.splice(forgotten.begin(), entries_, last);
  }
  entries_.push_front({key, std::move(tile), bytes});
  try {
    places_.emplace(entries_.front().key, entries_.begin());
  } catch (...) {
    entries_.pop_front();
    throw;
  }
  bytes_ += bytes;
}

void TileCache::clear() {
  Entries forgotten;
  const std::lock_guard lock(mutex_);
  places_.clear();
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

}  // namespace internvl
