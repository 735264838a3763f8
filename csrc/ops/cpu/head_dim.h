// The sizes of attention heads that the attention kernels take.
#pragma once

#include <cstddef>
#include <string_view>

namespace internvl {

// `part`: the part of the model that the heads belong to, as a message names it.
// Throws BundleError if there are no kernels for heads of that size.
void require_head_dim(std::size_t head_dim, std::string_view part);

}  // namespace internvl
