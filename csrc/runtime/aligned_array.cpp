#include "runtime/aligned_array.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace internvl {

void ask_for_huge_pages([[maybe_unused]] void* array, [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__)
  const auto alignment = static_cast<std::size_t>(array_alignment(bytes));
  constexpr std::size_t page = 4096;
  // Whole huge pages only: what follows the array is not ours. Where the system has none, nothing is lost.
  if (alignment > page) static_cast<void>(madvise(array, bytes / alignment * alignment, MADV_HUGEPAGE));
#endif
}

}  // namespace internvl
