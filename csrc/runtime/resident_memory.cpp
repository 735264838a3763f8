#include "runtime/resident_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>

#include "runtime/error.h"

namespace internvl {
namespace {

// Linux 5.14 has it; older headers do not.
constexpr int populate_write = 23;
// What a thread takes at a time, and a multiple of the largest pages.
constexpr std::size_t piece_bytes = std::size_t{32} << 20U;

// False if the system has no more memory.
bool take_pages(std::byte* begin, std::size_t bytes) {
  if (madvise(begin, bytes, populate_write) == 0) return true;
  if (errno != EINVAL) return false;
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  for (std::size_t i = 0; i < bytes; i += page) static_cast<volatile std::byte*>(begin)[i] = std::byte{0};
  return true;
}

}  // namespace

ResidentMemory::ResidentMemory(std::size_t bytes, ThreadTeam& team, const std::string& what) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  bool given = memory != MAP_FAILED;
  if (given) {
    memory_ = {static_cast<std::byte*>(memory), bytes};
    // Large pages are given faster, and found faster afterwards. It is advice: where there are none, small
    // ones do.
    static_cast<void>(madvise(memory, bytes, MADV_HUGEPAGE));
    std::atomic<bool> all{true};
    team.for_each_range(bytes, piece_bytes, [&](std::size_t begin, std::size_t end) {
      if (!take_pages(memory_.data() + begin, end - begin)) all = false;
    });
    given = all;
    if (!given) munmap(memory, bytes);
  }
  if (given) return;
  throw DeviceError("there is no memory for " + what + " of " + std::to_string(bytes >> 20U) +
                    " MiB. Take a smaller cache_tokens, or a cache_type that takes less.");
}

ResidentMemory::~ResidentMemory() { munmap(memory_.data(), memory_.size()); }

}  // namespace internvl
