// The error for a part of a tokenizer.json that is of no known kind.
#pragma once

#include <string_view>

#include "runtime/json.h"

namespace internvl {

// Throws BundleError with the beginning of what was written. `part` is normalizer, pre_tokenizer or decoder.
[[noreturn]] void throw_unknown_part(std::string_view part, const json::Value& document);

}  // namespace internvl
