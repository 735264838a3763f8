// The error for a component of tokenizer.json that is of no known kind.
#pragma once

#include <string_view>

#include "runtime/json.h"

namespace internvl {

// Throws BundleError with the beginning of what was written. `component` is normalizer, pre_tokenizer or
// decoder.
[[noreturn]] void throw_unknown_component(std::string_view component, const json::Value& document);

}  // namespace internvl
