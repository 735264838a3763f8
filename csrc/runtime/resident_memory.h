#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "runtime/thread_team.h"

namespace internvl {

// Memory that the system has given for good: no page of it is asked for later, when there may be none. It
// begins with a page, and with zeros.
class ResidentMemory {
 public:
  // Throws DeviceError if there is not so much memory; `what` says what for, as in "a KV cache". The team's
  // threads take the pages, because the system fills each with zeros.
  ResidentMemory(std::size_t bytes, ThreadTeam& team, const std::string& what);
  ~ResidentMemory();
  ResidentMemory(const ResidentMemory&) = delete;
  ResidentMemory& operator=(const ResidentMemory&) = delete;
  ResidentMemory(ResidentMemory&&) = delete;
  ResidentMemory& operator=(ResidentMemory&&) = delete;

  std::byte* data() { return memory_.data(); }
  const std::byte* data() const { return memory_.data(); }

 private:
  std::span<std::byte> memory_;
};

}  // namespace internvl
