// Conversations between Python and the core.
#pragma once

#include <pybind11/pybind11.h>

#include <string_view>

#include "prompt/conversation.h"

namespace internvl::bindings {

// By the name that Python's arguments have. Throws PromptError for another one.
Detail detail_of(std::string_view name);

// An object with `turns` and `system`.
Conversation conversation_of(const pybind11::handle& asked);

}  // namespace internvl::bindings
