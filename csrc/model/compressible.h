// The resolution router's decision (InternVL3.5-Flash): which tiles of a picture become fewer tokens.
#pragma once

#include <span>
#include <vector>

#include "model/flash_facts.h"

namespace internvl {

// As the authors decide for a batch of tiles: a tile is compressed if its score is above the quantile
// relative_threshold of all `scores`, and at least absolute_threshold. One tile alone never is above its own
// quantile. The batch here is one picture, so that what it becomes does not depend on the pictures beside it.
//
// The quantile is numpy.quantile's, linear between two scores: its place is computed in fp64, its value in
// fp32. Of scores among which is NaN, none is above it.
std::vector<bool> compressible(std::span<const float> scores, const FlashFacts& facts);

}  // namespace internvl
