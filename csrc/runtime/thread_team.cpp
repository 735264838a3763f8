#include "runtime/thread_team.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <system_error>
#include <utility>

#include "runtime/error.h"
#include "runtime/tile_unit.h"
#include "runtime/usable_resources.h"

namespace internvl {
namespace {

// The longest that a worker watches for new work: between two layers of a decoded token a few microseconds
// pass. And that a caller watches for its workers, who all end at about the same time.
constexpr auto work_patience = std::chrono::microseconds(200);
constexpr auto join_patience = std::chrono::microseconds(100);
constexpr auto least_patience = std::chrono::microseconds(2);

// Forks that lie between this process and the one that loaded the library.
std::atomic<unsigned> forks{0};

unsigned count_forks() {
  [[maybe_unused]] static const int registered =
      pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });
  return forks.load(std::memory_order_relaxed);
}

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

void Patience::wait_while(const std::atomic<unsigned>& value, unsigned old) {
  const auto changed = [&] { return value.load(std::memory_order_acquire) != old; };
  if (changed()) return;
  const auto until = std::chrono::steady_clock::now() + now_;
  do {
    for (int i = 0; i < 32; ++i) {
      if (changed()) {
        now_ = std::min(2 * now_, most_);
        return;
      }
      pause_briefly();
    }
  } while (std::chrono::steady_clock::now() < until);
  now_ = std::max<std::chrono::nanoseconds>(now_ / 2, least_patience);
  while (!changed()) value.wait(old, std::memory_order_acquire);
}

ThreadTeam::ThreadTeam(int threads) : forks_(count_forks()), patience_(join_patience) {
  constexpr int most = 1024;
  if (threads < 0 || threads > most) {
    throw DeviceError("threads=" + std::to_string(threads) + ": expected 1 to " + std::to_string(most) +
                      ", or 0 for one thread per usable core.");
  }
  if (threads == 0) threads = usable_cores();
  workers_.reserve(threads - 1);
  try {
    for (int thread = 1; thread < threads; ++thread)
      workers_.emplace_back([this, thread] { work_loop(thread); });
  } catch (const std::system_error& error) {
    // No destructor runs after this constructor, and those that have started wait for work.
    const std::size_t started = workers_.size() + 1;
    stop();
    throw DeviceError("threads=" + std::to_string(threads) + ": the system gave only " +
                      std::to_string(started) + " (" + error.what() + "). Ask for fewer.");
  }
}

ThreadTeam::~ThreadTeam() { stop(); }

void ThreadTeam::stop() {
  if (forks_ != count_forks()) {
    // The workers live in another process. Joining them would wait for ever, and ending their handles without
    // would end the process: they are kept.
    static auto& left_behind = *new std::vector<std::vector<std::thread>>();
    left_behind.push_back(std::move(workers_));
    return;
  }
  stopping_.store(true, std::memory_order_relaxed);
  generation_.fetch_add(1);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadTeam::run_share(int thread) {
  try {
    const TileRegion tiles;
    (*work_)(thread);
  } catch (...) {
    const std::lock_guard lock(failure_mutex_);
    if (!failure_) failure_ = std::current_exception();
  }
}

void ThreadTeam::check_process() const {
  if (forks_ == count_forks()) return;
  throw DeviceError(
      "this process was forked from the one that loaded the model, and threads do not survive a fork. Load "
      "the "
      "model in the new process, or start that with multiprocessing's 'spawn' method.");
}

void ThreadTeam::run(FunctionRef<void(int)> work) {
  check_process();
  const std::lock_guard turn(turn_);
  work_ = &work;
  failure_ = nullptr;
  running_.store(static_cast<unsigned>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1);
  generation_.notify_all();
  run_share(0);
  for (unsigned left = 0; (left = running_.load(std::memory_order_acquire)) != 0;) {
    patience_.wait_while(running_, left);
  }
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

void ThreadTeam::work_loop(int thread) {
  Patience patience(work_patience);
  for (unsigned seen = 0;; ++seen) {  // run() waits for every worker, so no piece is ever missed
    patience.wait_while(generation_, seen);
    if (stopping_.load(std::memory_order_relaxed)) return;
    run_share(thread);
    if (running_.fetch_sub(1) == 1) running_.notify_one();
  }
}

void ThreadTeam::for_each_range(std::size_t count, std::size_t grain,
                                FunctionRef<void(std::size_t, std::size_t)> body) {
  share(count, grain, [&](int, std::size_t begin, std::size_t end) { body(begin, end); });
}

void ThreadTeam::share(std::size_t count, std::size_t grain,
                       FunctionRef<void(int, std::size_t, std::size_t)> body) {
  grain = std::max<std::size_t>(grain, 1);
  if (size() == 1 || count <= grain) {
    const TileRegion tiles;
    for (std::size_t begin = 0; begin < count; begin += grain) {
      body(0, begin, std::min(begin + grain, count));
    }
    return;
  }
  std::atomic<std::size_t> next{0};
  run([&](int thread) {
    for (;;) {
      const std::size_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= count) return;
      body(thread, begin, std::min(begin + grain, count));
    }
  });
}

}  // namespace internvl
