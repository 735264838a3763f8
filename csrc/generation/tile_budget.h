// How many tiles the pictures of one question may have.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "prompt/conversation.h"

namespace internvl {

// The most tiles of a picture that the authors document, for 4K.
inline constexpr int kMostTiles = 40;

struct TileBudget {
  // The most tiles of every picture, its thumbnail not counted: 1 to kMostTiles.
  std::optional<std::int64_t> max_tiles;
  // Where that is not given. `low`: every picture is one tile. `automatic`: the model's own figure, `high`:
  // kMostTiles; these are for all pictures together, so that n pictures have max(1, tiles / n) each, as in
  // training.
  Detail detail = Detail::automatic;

  // Throws ImageError if max_tiles is out of range, PromptError if both are given.
  void check() const;

  // The most tiles of each of so many pictures. `own`: the model's figure.
  int per_picture(int own, std::size_t pictures) const;
};

// The most tiles of every picture of a conversation. The item of a picture may ask for a detail of its own,
// unless the number of tiles is given. `as_one`: all pictures stand in one place.
std::vector<int> most_tiles(const TileBudget& budget, const Conversation& conversation, std::size_t pictures,
                            bool as_one, int own);

}  // namespace internvl
