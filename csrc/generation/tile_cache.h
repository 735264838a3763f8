// What was made of tiles, for the pictures that show them again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "bundle/manifest.h"
#include "image/grid.h"

namespace internvl {

// The SHA-256 of a tile's pixels and shape: nobody can make two tiles that share it.
using TileKey = std::string;

// What the vision side makes of one tile.
struct EncodedTile {
  std::vector<float> features;       // [tokens_per_tile, hidden]
  std::vector<float> compressed;     // [tokens_per_compressed_tile, hidden], of a model with a router
  float score = 0.0F;                // then: the probability that the tile can do with fewer tokens
  std::vector<std::uint8_t> pixels;  // [tile_size, tile_size, 3], where later tiles are compared with it
};

// A picture by its tiles: the grid's in row-major order, then the thumbnail if there is one.
struct TiledPicture {
  Grid grid;
  std::vector<TileKey> keys;
};

// Pictures that a tile is compared with: as many cameras may take turns.
inline constexpr std::size_t kComparedPictures = 4;

// Of one model, so that its tiles need not say whose they are. Holds so many bytes at most, its own
// bookkeeping among them, and forgets what was not used for the longest time. May be used from several
// threads. A tile that is forgotten stays with those who have it.
class TileCache {
 public:
  // 0 bytes: nothing is kept. `tolerance`: the largest difference of two values of a pixel, 0 to 255, that
  // find_similar() takes for equal; 0: it finds nothing, and pixels need not be kept.
  explicit TileCache(std::size_t most_bytes, int tolerance = 0)
      : most_bytes_(most_bytes), tolerance_(tolerance) {}

  // Null where it is not there.
  std::shared_ptr<const EncodedTile> find(const TileKey& key);
  // A tile that is larger than the whole cache is not kept.
  void keep(const TileKey& key, std::shared_ptr<const EncodedTile> tile);
  void clear();

  bool compares() const { return tolerance_ > 0; }
  // The key of the tile that stood at the same place of one of the last pictures of that grid, the latest
  // first, if none of its pixels differs by more than the tolerance. It is the tile that was encoded which is
  // compared, not one that was taken for equal to it: differences do not add up from picture to picture.
  std::optional<TileKey> find_similar(const Grid& grid, std::size_t tiles, std::size_t place,
                                      std::span<const std::uint8_t> pixels);
  // Of a picture that was encoded: compared with those that come after. Counts with its keys.
  void remember(TiledPicture picture);

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

  void make_room(std::size_t bytes, Entries& forgotten);
  std::vector<TileKey> keys_at(const Grid& grid, std::size_t tiles, std::size_t place) const;

  const std::size_t most_bytes_;
  const int tolerance_;
  mutable std::mutex mutex_;
  Entries entries_;  // what was used last comes first
  std::unordered_map<std::string_view, Entries::iterator> places_;
  std::deque<TiledPicture> pictures_;  // the latest first
  std::size_t bytes_ = 0;
};

// The bytes of a model's cache: as many as are wanted, or those of two pictures of the model's most tiles, 64
// MB at least, and a sixteenth of the memory at hand at most. `usable`: bytes that this process can still
// take; none where that is not known. Throws PromptError if the number is negative, DeviceError if it is more
// than the memory at hand.
std::size_t tile_cache_bytes(const Manifest& manifest, std::optional<std::int64_t> wanted,
                             std::optional<std::uint64_t> usable);

// Throws PromptError unless it is from 0 to 255, and 0 where there is no cache to compare with.
void check_frame_tolerance(std::int64_t tolerance, std::size_t cache_bytes);

}  // namespace internvl
