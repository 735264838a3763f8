// Numbers of bytes for people.
#pragma once

#include <string>

namespace internvl {

// In the unit that fits: 812 B, 1.50 GiB.
std::string readable_size(double bytes);

}  // namespace internvl
