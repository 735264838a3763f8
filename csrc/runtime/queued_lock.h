#pragma once

#include <algorithm>
#include <chrono>
#include <deque>
#include <mutex>
#include <thread>

#include "runtime/function_ref.h"

namespace internvl {

// A mutex for things that are held for seconds: it is given to those who wait in the order in which they
// came, and whoever waits may give up.
class QueuedLock {
 public:
  // Calls `watch` while it waits, every millisecond at least. What that throws ends the wait.
  void lock(FunctionRef<void()> watch) {
    const unsigned mine = enqueue();
    auto pause = std::chrono::microseconds(20);
    constexpr auto longest = std::chrono::microseconds(1000);
    while (!take(mine)) {
      std::this_thread::sleep_for(pause);
      pause = std::min(2 * pause, longest);
      try {
        watch();
      } catch (...) {
        const std::lock_guard lock(mutex_);
        std::erase(waiting_, mine);
        throw;
      }
    }
  }

  void unlock() {
    const std::lock_guard lock(mutex_);
    taken_ = false;
  }

 private:
  unsigned enqueue() {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(next_);
    return next_++;
  }

  bool take(unsigned mine) {
    const std::lock_guard lock(mutex_);
    if (taken_ || waiting_.front() != mine) return false;
    waiting_.pop_front();
    return taken_ = true;
  }

  std::mutex mutex_;
  std::deque<unsigned> waiting_;
  unsigned next_ = 0;
  bool taken_ = false;
};

// Holds the lock for as long as it lives.
class QueuedTurn {
 public:
  QueuedTurn(QueuedLock& lock, FunctionRef<void()> watch) : lock_(lock) { lock_.lock(watch); }
  ~QueuedTurn() { lock_.unlock(); }
  QueuedTurn(const QueuedTurn&) = delete;
  QueuedTurn& operator=(const QueuedTurn&) = delete;
  QueuedTurn(QueuedTurn&&) = delete;
  QueuedTurn& operator=(QueuedTurn&&) = delete;

 private:
  QueuedLock& lock_;
};

}  // namespace internvl
