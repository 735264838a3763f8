// What a long call tells Python, and asks it.
#pragma once

#include <pybind11/functional.h>
#include <pybind11/pybind11.h>

#include <chrono>
#include <cstddef>
#include <functional>
#include <utility>

#include "bindings/gil.h"
#include "runtime/error.h"

namespace internvl::bindings {

// Called without the GIL, as often as the core likes. Handles signals, so that Ctrl-C ends the call, and
// calls Python's function with how much is done; both when more is done than before, and else every 20
// milliseconds: another thread of Python may keep the GIL for five.
class WatchedProgress {
 public:
  using Function = std::function<void(std::size_t)>;

  explicit WatchedProgress(Function function) : function_(std::move(function)) {}

  void operator()(std::size_t done) {
    const auto now = std::chrono::steady_clock::now();
    if (done == done_ && now - asked_ < std::chrono::milliseconds(20)) return;
    done_ = done;
    const GilAcquire acquire;
    if (!acquire) throw ClosedError("the process exits.");
    if (PyErr_CheckSignals() != 0) throw pybind11::error_already_set();
    if (function_) function_(done);
    asked_ = std::chrono::steady_clock::now();
  }

 private:
  Function function_;
  std::size_t done_ = 0;
  std::chrono::steady_clock::time_point asked_ = std::chrono::steady_clock::now();
};

}  // namespace internvl::bindings
