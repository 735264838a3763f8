#include "ops/cpu/head_dim.h"

#include <string>

#include "kernels/attention/attention.h"
#include "runtime/error.h"

namespace internvl {

void require_head_dim(std::size_t head_dim, std::string_view part) {
  if (head_dim == 0 || head_dim % 8 != 0 || head_dim > most_head_dim) {
    throw BundleError("the " + std::string(part) + "'s head_dim is " + std::to_string(head_dim) +
                          "; the native engine takes multiples of 8 up to " + std::to_string(most_head_dim) +
                          ".",
                      ErrorCode::engine_cannot);
  }
}

}  // namespace internvl
