#include "runtime/thread_team.h"

#include <pthread.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <string>
#include <system_error>
#include <utility>

#include "runtime/error.h"
#include "runtime/rounding.h"
#include "runtime/tile_unit.h"
#include "runtime/usable_resources.h"

namespace internvl {
namespace {

// The longest that a worker watches for new work: between two layers of a decoded token a few microseconds
// pass. And that a caller watches for its workers, who all end at about the same time.
constexpr auto work_patience = std::chrono::microseconds(200);
constexpr auto join_patience = std::chrono::microseconds(100);
constexpr auto least_patience = std::chrono::microseconds(2);

// state_: the lowest bits count the workers that are inside of the current piece, the next one says that more
// may come in, and the others number the piece.
constexpr unsigned most_threads = 1024;
constexpr unsigned inside = most_threads - 1;
constexpr unsigned open = most_threads;
constexpr unsigned generation_step = 2 * most_threads;
constexpr unsigned generation_of(unsigned state) { return state & ~(open | inside); }

// A piece of work that ends sooner was not held up by threads that lost their cores.
constexpr auto shortest_loss = std::chrono::microseconds(500);

// Neighbouring ranges of a piece of work. A thread begins with a stretch of its own, so that it reads memory
// in one direction, as prefetching expects; then it helps with the others'.
struct alignas(64) Stretch {
  std::atomic<std::size_t> next{0};
  std::size_t end = 0;
};
constexpr std::size_t most_stretches = 64;  // several threads share one where there are more

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

// A piece of work that the caller does by itself.
void run_alone(FunctionRef<void(int)> work) {
  const TileRegion tiles;
  work(0);
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

ThreadTeam::ThreadTeam(int threads) : forks_(count_forks()), patience_(join_patience), width_(1) {
  constexpr int most = most_threads;
  if (threads < 0 || threads > most) {
    throw DeviceError("threads=" + std::to_string(threads) + ": expected 1 to " + std::to_string(most) +
                      ", or 0 for one thread per usable core.");
  }
  if (threads == 0) threads = usable_cores();
  width_ = TeamWidth(threads);
  admitted_ = threads;
  seats_.resize(threads);
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
  state_.fetch_add(generation_step);
  state_.notify_all();
  admit(most_threads + 1);
  for (std::thread& worker : workers_) worker.join();
}

void ThreadTeam::admit(int threads) {
  const auto wanted = static_cast<unsigned>(threads);
  if (wanted > admitted_.exchange(wanted)) admitted_.notify_all();
}

void ThreadTeam::run_share(int thread) noexcept {
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
      "the model in the new process.",
      ErrorCode::forked);
}

void ThreadTeam::run(FunctionRef<void(int)> work) {
  check_process();
  const std::lock_guard turn(turn_);
  if (workers_.empty()) return run_alone(work);
  CoreMeter& meter = CoreMeter::mine();
  const Clock::time_point begun = meter.begin();
  const int width = width_.at(begun);
  if (width == 1) return run_alone(work);
  admit(width);
  work_ = &work;
  failure_ = nullptr;
  const unsigned before = left_.load(std::memory_order_relaxed);
  const unsigned generation = generation_of(state_.load(std::memory_order_relaxed)) + generation_step;
  state_.store(generation | open);
  state_.notify_all();
  run_share(0);
  Clock::time_point end = Clock::now();
  const Clock::duration lost = meter.end(end);
  if ((state_.fetch_and(~open, std::memory_order_acq_rel) & inside) != 0) {
    patience_.wait_while(left_, before);
    end = Clock::now();
  }
  width_.add(end, end - begun,
             end - begun > shortest_loss ? held_up(generation, end, lost) : Clock::duration{});
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

// Whoever loses its core holds up the others for as long at most, and only for as long as they had nothing to
// do: where there is more work than it has taken, they do that.
ThreadTeam::Clock::duration ThreadTeam::held_up(unsigned generation, Clock::time_point end,
                                                Clock::duration own) const {
  Clock::duration most = own;
  Clock::duration sum = own;
  int threads = 1;
  for (const Seat& seat : seats_) {
    if (seat.generation != generation) continue;
    most = std::max(most, seat.lost);
    sum += seat.lost + (end - seat.ended);
    ++threads;
  }
  return std::min(most, sum / threads);
}

void ThreadTeam::work_loop(int thread) {
  Patience patience(work_patience);
  CoreMeter& meter = CoreMeter::mine();
  Seat& seat = seats_[thread];
  for (;;) {
    const unsigned admitted = admitted_.load(std::memory_order_acquire);
    unsigned state = state_.load(std::memory_order_acquire);
    if (stopping_.load(std::memory_order_relaxed)) return;  // whoever ends the team changes both after this
    if (static_cast<unsigned>(thread) >= admitted) {
      admitted_.wait(admitted, std::memory_order_acquire);
      continue;
    }
    if ((state & open) == 0 || generation_of(state) == seat.generation) {
      patience.wait_while(state_, state);
      continue;
    }
    if (!state_.compare_exchange_strong(state, state + 1, std::memory_order_acq_rel)) continue;
    meter.begin();
    run_share(thread);
    seat.generation = generation_of(state);
    seat.ended = Clock::now();
    seat.lost = meter.end(seat.ended);
    const unsigned last = state_.fetch_sub(1, std::memory_order_acq_rel);
    if ((last & (open | inside)) == 1) {
      left_.fetch_add(1, std::memory_order_release);
      left_.notify_one();
    }
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
  const std::size_t ranges = divide_up(count, grain);
  const std::size_t stretches = std::min({static_cast<std::size_t>(size()), ranges, most_stretches});
  std::array<Stretch, most_stretches> all;
  for (std::size_t i = 0; i < stretches; ++i) {
    all[i].next.store(ranges * i / stretches, std::memory_order_relaxed);
    all[i].end = ranges * (i + 1) / stretches;
  }
  run([&](int thread) {
    for (std::size_t i = 0; i < stretches; ++i) {
      Stretch& stretch = all[(static_cast<std::size_t>(thread) + i) % stretches];
      // Looks first: where nothing is left, nobody's cache line is taken.
      while (stretch.next.load(std::memory_order_relaxed) < stretch.end) {
        const std::size_t range = stretch.next.fetch_add(1, std::memory_order_relaxed);
        if (range >= stretch.end) break;
        body(thread, range * grain, std::min((range + 1) * grain, count));
      }
    }
  });
}

}  // namespace internvl
