#pragma once

#include "runtime/error.h"

namespace internvl {

// Threads do not survive a fork: a call would wait for them for ever.
[[noreturn]] inline void throw_forked() {
  throw DeviceError(
      "this model was loaded before the process forked, and an engine's threads stay behind. Load it in the "
      "new process.",
      ErrorCode::forked);
}

}  // namespace internvl
