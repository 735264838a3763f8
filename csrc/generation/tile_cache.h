// What was made of tiles, for the pictures that show them again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "bundle/manifest.h"

namespace internvl {

// The SHA-256 of a tile's pixels and shape: nobody can make two tiles that share it.
using TileKey = std::string;

// What the vision side makes of one tile.
struct EncodedTile {
  std::vector<float> features;    // [tokens_per_tile, hidden]
  std::vector<float> compressed;  // [tokens_per_compressed_tile, hidden], of a model with a router
  float score = 0.0F;             // then: the probability that the tile can do with fewer tokens
};

// Of one model, so that its tiles need not say whose they are. Holds so many bytes at most, its own
// bookkeeping among them, and forgets what was not used for the longest time. May be used from several
// threads. A tile that is forgotten stays with those who have it.
class TileCache {
 public:
  // 0: nothing is kept.
  explicit TileCache(std::size_t most_bytes) : most_bytes_(most_bytes) {}

  // Null where it is not there.
  std::shared_ptr<const EncodedTile> find(const TileKey& key);
  // A tile that is larger than the whole cache is not kept.
  void keep(const TileKey& key, std::shared_ptr<const EncodedTile> tile);
  void clear();

  std::size_t most_bytes() const { return most_bytes_; }
  std::size_t bytes() const;
  std::size_t tiles() const;

 private:
  struct Entry {
    TileKey key;
    std::shared_ptr<const EncodedTile> tile;
    std::size_t bytes;
  };
  using Entries = std::list<Entry>;

  const std::size_t most_bytes_;
  mutable std::mutex mutex_;
  Entries entries_;  // what was used last comes first
  std::unordered_map<std::string_view, Entries::iterator> places_;
  std::size_t bytes_ = 0;
};

// The bytes of a model's cache: as many as are wanted, or those of two pictures of the model's most tiles, 64
// MB at least, and a sixteenth of the memory at hand at most. `usable`: bytes that this process can still
// take; none where that is not known. Throws PromptError if the number is negative, DeviceError if it is more
// than the memory at hand.
std::size_t tile_cache_bytes(const Manifest& manifest, std::optional<std::int64_t> wanted,
                             std::optional<std::uint64_t> usable);

}  // namespace internvl
