#include "runtime/team_width.h"

#include <algorithm>

namespace internvl {
namespace {

// What a thread must bring, in threads that never lose their cores, to be kept.
constexpr double least_gain = 0.15;

}  // namespace

int TeamWidth::at(Clock::time_point now) {
  if (width_ < most_ && now >= narrow_until_) {
    width_ = most_;
    begin_window();
  }
  return width_;
}

void TeamWidth::add(Clock::time_point end, Clock::duration taken, Clock::duration lost) {
  if (width_ == 1) return;
  taken_ += taken;
  lost_ += std::min(lost, taken);
  const auto whole = std::max<Clock::duration>(taken_, window);
  const double left = width_ * (1 - static_cast<double>(lost_.count()) / static_cast<double>(whole.count()));
  if (left < width_ - 1 + least_gain) {
    // Those who are tried again are tried all at once, but left out one by one, and the longer the oftener
    // that was right.
    if (width_ == most_) hold_ = std::min<Clock::duration>(2 * hold_, longest_hold);
    --width_;
    narrow_until_ = end + hold_;
    begin_window();
  } else if (taken_ >= window) {
    if (width_ == most_) hold_ = std::max<Clock::duration>(hold_ / 2, shortest_hold / 2);
    begin_window();
  }
}

void TeamWidth::begin_window() {
  taken_ = {};
  lost_ = {};
}

}  // namespace internvl
