// Texts between Python and the core, which has them in UTF-8. A lone surrogate, which is how Python carries a
// byte that is not UTF-8, is three bytes there.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <string>
#include <string_view>

#include "prompt/tokenizer.h"

namespace internvl::bindings {

// Throws Python's TypeError if it is no str.
std::string utf8_of(const pybind11::handle& text);
// None becomes none.
std::optional<std::string> optional_utf8_of(const pybind11::handle& text);

pybind11::str str_of(std::string_view utf8);

// By the names that Python's arguments have. Throws PromptError for another one.
KeepTokens keep_of(std::string_view name);

}  // namespace internvl::bindings
