#include "generation/tile_budget.h"

#include <algorithm>
#include <limits>
#include <string>
#include <variant>

#include "runtime/error.h"

namespace internvl {

void TileBudget::check() const {
  if (!max_tiles) return;
  const std::string found = std::to_string(*max_tiles);
  if (detail != Detail::automatic) {
    throw PromptError("max_tiles=" + found + " and detail='" + std::string(name_of(detail)) +
                      "' both say how many tiles a picture has. Give one of them.");
  }
  if (*max_tiles < 1 || *max_tiles > kMostTiles) {
    throw ImageError("max_tiles is the most tiles of a picture, an integer from 1 to " +
                     std::to_string(kMostTiles) + "; found " + found + ".");
  }
}

int TileBudget::per_picture(int own, std::size_t pictures) const {
  if (max_tiles) return static_cast<int>(*max_tiles);
  if (detail == Detail::low) return 1;
  const int tiles = detail == Detail::high ? kMostTiles : own;
  const auto sharing =
      static_cast<int>(std::clamp<std::size_t>(pictures, 1, std::numeric_limits<int>::max()));
  return std::max(1, tiles / sharing);
}

std::vector<int> most_tiles(const TileBudget& budget, const Conversation& conversation, std::size_t pictures,
                            bool as_one, int own) {
  std::vector<int> most(pictures, budget.per_picture(own, pictures));
  if (budget.max_tiles || as_one) return most;
  auto next = most.begin();
  for (const Turn& turn : conversation.turns) {
    for (const TurnPart& part : turn.parts) {
      const auto* place = std::get_if<ImagePlace>(&part);
      if (place == nullptr || next == most.end()) continue;
      if (place->detail) *next = TileBudget{std::nullopt, *place->detail}.per_picture(own, pictures);
      ++next;
    }
  }
  return most;
}

}  // namespace internvl
