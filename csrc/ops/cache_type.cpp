#include "ops/cache_type.h"

#include <string>

#include "runtime/error.h"

namespace internvl {

std::string_view name_of(CacheType type) {
  switch (type) {
    case CacheType::float32:
      return "float32";
    case CacheType::float16:
      return "float16";
    case CacheType::bfloat16:
      return "bfloat16";
    case CacheType::int8:
      break;
  }
  return "int8";
}

CacheType cache_type_from(std::string_view name) {
  for (const CacheType type :
       {CacheType::float32, CacheType::float16, CacheType::bfloat16, CacheType::int8}) {
    if (name == name_of(type)) return type;
  }
  throw PromptError("the cache type '" + std::string(name) +
                    "' is not one of float32, float16, bfloat16, int8.");
}

}  // namespace internvl
