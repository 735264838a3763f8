#include "runtime/core_meter.h"

#include <algorithm>
#include <ctime>
#include <utility>

namespace internvl {
namespace {

// Between two readings; the time since the last one is what a loss may be told too small by.
constexpr auto refresh = std::chrono::microseconds(500);
// Shorter work is not looked at.
constexpr auto worth_telling = std::chrono::microseconds(700);

CoreMeter::Clock::duration processor_time() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

}  // namespace

CoreMeter& CoreMeter::mine() {
  thread_local CoreMeter meter;
  return meter;
}

CoreMeter::Clock::time_point CoreMeter::begin() {
  begun_ = Clock::now();
  if (begun_ - read_at_ > refresh) {
    used_ = processor_time();
    read_at_ = begun_;
  }
  return begun_;
}

CoreMeter::Clock::duration CoreMeter::end(Clock::time_point now) {
  const Clock::duration taken = now - begun_;
  if (taken < worth_telling) return {};
  const Clock::duration before = std::exchange(used_, processor_time());
  read_at_ = now;
  return std::max(taken - std::max(used_ - before, Clock::duration{}), Clock::duration{});
}

}  // namespace internvl
