// Names from files and callers as error messages show them.
#pragma once

#include <string>
#include <string_view>

namespace internvl {

// In quotation marks, on one line: what a terminal would obey is escaped. The text is UTF-8.
std::string quoted(std::string_view text);

}  // namespace internvl
