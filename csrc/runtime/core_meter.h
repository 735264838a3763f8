#pragma once

#include <chrono>

namespace internvl {

// Measures, on one thread, for how long it wanted a core and had none.
//
// Reading a thread's processor time is a call into the kernel and takes most of a microsecond, so it is not
// read for work that is too short to be worth it: what the scheduler takes away, it takes for a millisecond
// or more. Each thread that measures has a meter of its own.
class CoreMeter {
 public:
  using Clock = std::chrono::steady_clock;

  // That of the calling thread.
  static CoreMeter& mine();

  Clock::time_point begin();
  // The time since begin() that the thread was kept from running, or 0 where that is not worth telling. What
  // it slept by itself counts too.
  Clock::duration end(Clock::time_point now);

 private:
  Clock::time_point begun_;
  Clock::time_point read_at_;  // the clock, at the last reading of
  Clock::duration used_{};     // the thread's processor time
};

}  // namespace internvl
