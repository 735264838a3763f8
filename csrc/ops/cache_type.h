#pragma once

#include <string_view>

namespace internvl {

// How keys and values are stored.
//
//   float16    rounded to the nearest; beyond 65504, that
//   int8       times one fp32 scale for each token's key and value of a head: 127 is its greatest magnitude
enum class CacheType { float32, float16, bfloat16, int8 };

std::string_view name_of(CacheType type);

// Throws PromptError for a name that is not one of the above.
CacheType cache_type_from(std::string_view name);

}  // namespace internvl
