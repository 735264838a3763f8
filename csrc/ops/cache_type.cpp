#include "ops/cache_type.h"

#include <string>

#include "runtime/error.h"

namespace internvl {

CacheType cache_type_from(std::string_view name) {
  if (name == "float32") return CacheType::float32;
  if (name == "float16") return CacheType::float16;
  if (name == "bfloat16") return CacheType::bfloat16;
  if (name == "int8") return CacheType::int8;
  throw PromptError("the cache type '" + std::string(name) +
                    "' is not one of float32, float16, bfloat16, int8.");
}

}  // namespace internvl
