// A fixed team of threads that runs one piece of work at a time.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/function_ref.h"

namespace internvl {

// Physical cores that this process may use: its affinity mask and its cgroup's CPU limit taken into account,
// one per core where cores have several hardware threads. At least 1.
int usable_cores();

class ThreadTeam {
 public:
  // `threads` counts the caller's own thread; 0 means usable_cores(). Throws DeviceError if it is negative or
  // over 1024, or the system has no room for as many.
  explicit ThreadTeam(int threads = 0);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;
  ThreadTeam(ThreadTeam&&) = delete;
  ThreadTeam& operator=(ThreadTeam&&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls work(thread) once on every thread of the team, 0 <= thread < size(), and returns when all have
  // returned. Calls from several threads take turns. The first exception thrown by `work` is thrown again
  // here.
  void run(FunctionRef<void(int thread)> work);

  // Calls body(begin, end) on ranges that together cover [0, count), each of at most `grain` items, handed
  // out as threads become free. Which thread takes which range may differ between calls: bodies must not
  // depend on it.
  void for_each_range(std::size_t count, std::size_t grain,
                      FunctionRef<void(std::size_t begin, std::size_t end)> body);

 private:
  void stop();
  void work_loop(int thread);
  void run_share(int thread);

  std::vector<std::thread> workers_;
  std::mutex turn_;  // one caller at a time
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<std::size_t> generation_{0};  // counts pieces of work
  std::atomic<int> running_{0};             // workers that have not finished the current piece
  std::atomic<bool> stopping_{false};
  const FunctionRef<void(int)>* work_ = nullptr;
  std::exception_ptr failure_;
  std::mutex failure_mutex_;
};

}  // namespace internvl
