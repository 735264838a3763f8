// A fixed team of threads that runs one piece of work at a time.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/core_meter.h"
#include "runtime/function_ref.h"
#include "runtime/team_width.h"
#include "runtime/turn_lock.h"

namespace internvl {

// How long a thread watches for a change before it sleeps. Waking a sleeping thread costs some fifty
// microseconds, so that watching is right where changes come quickly; where they do not, because the other
// thread has lost its core, watching may be what keeps the core from it. So every wait in vain halves the
// time and every good one doubles it again.
class Patience {
 public:
  explicit Patience(std::chrono::microseconds most) : most_(most), now_(most) {}

  // Waits until `value` is no longer `old`.
  void wait_while(const std::atomic<unsigned>& value, unsigned old);

 private:
  std::chrono::nanoseconds most_;
  std::chrono::nanoseconds now_;
};

// Threads do not survive a fork: in the new process a team can be destroyed, and run() throws DeviceError.
class ThreadTeam {
 public:
  // `threads` counts the caller's own thread; 0 means usable_cores() (runtime/usable_resources.h). Throws
  // DeviceError if it is negative or over 1024, or the system has no room for as many.
  explicit ThreadTeam(int threads = 0);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;
  ThreadTeam(ThreadTeam&&) = delete;
  ThreadTeam& operator=(ThreadTeam&&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Throws DeviceError in a process that was forked from the team's.
  void check_process() const;

  // For those who share a team: whoever holds this has all threads for a stretch of many pieces of work, such
  // as a layer or a decoded token. Without it two callers would alternate piece by piece, and each would take
  // as long as both. Hold it for milliseconds, and let go between two layers.
  TurnLock& stretch() { return stretch_; }

  // Calls work(0) here and work(thread), 0 < thread < size(), on those threads of the team that come before
  // that has returned, each at most once; returns when all have returned. Nobody waits for a thread that has
  // not begun: `work` takes pieces until none is left, and one call alone must be able to do them all. Calls
  // from several threads take turns. The first exception thrown by `work` is thrown again here. Throws
  // DeviceError in a process that was forked from the team's.
  void run(FunctionRef<void(int thread)> work);

  // Calls body(begin, end) on ranges that together cover [0, count), each of at most `grain` items, handed
  // out as threads become free; a thread's ranges lie behind each other as long as nobody is late. Which
  // thread takes which range may differ between calls: bodies must not depend on it.
  void for_each_range(std::size_t count, std::size_t grain,
                      FunctionRef<void(std::size_t begin, std::size_t end)> body);
  // The same, for bodies that need memory of their thread's own.
  void share(std::size_t count, std::size_t grain,
             FunctionRef<void(int thread, std::size_t begin, std::size_t end)> body);

 private:
  using Clock = TeamWidth::Clock;

  // What a worker tells of the last piece of work that it took part in.
  struct alignas(64) Seat {
    unsigned generation = 0;
    Clock::time_point ended;
    Clock::duration lost{};
  };

  void stop();
  void admit(int threads);
  void work_loop(int thread);
  void run_share(int thread) noexcept;
  Clock::duration held_up(unsigned generation, Clock::time_point end, Clock::duration own) const;

  // Waiting uses atomics alone, not condition variables: destroying one of those waits for its waiters, which
  // in a forked process do not exist.
  std::vector<Seat> seats_;
  std::vector<std::thread> workers_;
  unsigned forks_;  // of this process's line, when the workers were started
  TurnLock stretch_;
  TurnLock turn_;                   // one caller at a time
  std::atomic<unsigned> state_{0};  // of the current piece: its number, whether one may join, how many have
  std::atomic<unsigned> left_{0};   // counts pieces whose last worker left after they were closed
  std::atomic<unsigned> admitted_{0};  // threads below this number take part, the others sleep
  std::atomic<bool> stopping_{false};
  Patience patience_;  // of the caller, for its workers
  TeamWidth width_;
  const FunctionRef<void(int)>* work_ = nullptr;
  std::exception_ptr failure_;
  std::mutex failure_mutex_;
};

}  // namespace internvl
