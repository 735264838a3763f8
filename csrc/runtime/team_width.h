#pragma once

#include <chrono>

namespace internvl {

// How many threads of a team take part, by what the machine leaves to them.
//
// Where another program keeps a core busy, a thread that shares that core is away for milliseconds at a time
// while all others wait for what it has begun. As soon as that costs more than the thread brings, the team
// does without it, and its core is the other program's. From time to time all are tried again.
class TeamWidth {
 public:
  using Clock = std::chrono::steady_clock;

  explicit TeamWidth(int most) : most_(most), width_(most) {}

  // Threads for a piece of work that begins now.
  int at(Clock::time_point now);

  // Counts a piece of work: how long it took, and how long of that it was held up because threads had lost
  // their cores.
  void add(Clock::time_point end, Clock::duration taken, Clock::duration lost);

 private:
  void begin_window();

  int most_;
  int width_;
  Clock::duration taken_{};  // in the window
  Clock::duration lost_{};
  Clock::duration hold_ = shortest_hold / 2;
  Clock::time_point narrow_until_;

 public:
  // Work that is judged together, and how long threads are left out. A window in vain takes twice its time at
  // worst, so that trying costs a fiftieth at most once the longest is reached.
  static constexpr std::chrono::milliseconds window{16};
  static constexpr std::chrono::milliseconds shortest_hold{100};
  static constexpr std::chrono::milliseconds longest_hold{1600};
};

}  // namespace internvl
