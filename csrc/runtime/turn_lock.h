#pragma once

#include <atomic>

namespace internvl {

// A mutex that is given to those who wait for it in the order in which they came.
//
// Made of atomics alone: in a forked process, nothing of it waits for threads that stayed behind.
class TurnLock {
 public:
  void lock() {
    const unsigned mine = next_.fetch_add(1, std::memory_order_relaxed);
    for (unsigned now = 0; (now = serving_.load(std::memory_order_acquire)) != mine;) serving_.wait(now);
  }
  void unlock() {
    serving_.fetch_add(1);
    serving_.notify_all();
  }

 private:
  std::atomic<unsigned> next_{0};
  std::atomic<unsigned> serving_{0};
};

}  // namespace internvl
