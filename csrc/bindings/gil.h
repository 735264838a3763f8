// The GIL, given up and taken again in a process that may be about to exit.
//
// Before Python 3.14, a thread that takes the GIL of an interpreter that is ending is ended where it stands,
// and a destructor that this meets on its way ends the process. So threads of Python that compute or wait in
// the core while the process exits do not come back from it: as far as Python can tell, they compute until
// the end.
#pragma once

#include <pybind11/pybind11.h>

namespace internvl::bindings {

// From here on, threads of Python other than the caller's stay in the core. With the GIL, which the others
// get that wait for it already.
void keep_other_threads_in_the_core();

// A thread of the core that runs Python for a while: it ends before the interpreter does, and is not kept.
class CoreThread {
 public:
  CoreThread();
  ~CoreThread();
  CoreThread(const CoreThread&) = delete;
  CoreThread& operator=(const CoreThread&) = delete;
  CoreThread(CoreThread&&) = delete;
  CoreThread& operator=(CoreThread&&) = delete;
};

// Gives up the GIL until its end.
class GilRelease {
 public:
  GilRelease();
  ~GilRelease();
  GilRelease(const GilRelease&) = delete;
  GilRelease& operator=(const GilRelease&) = delete;
  GilRelease(GilRelease&&) = delete;
  GilRelease& operator=(GilRelease&&) = delete;

 private:
  PyThreadState* state_;
};

// Has the GIL until its end, unless the process exits and this thread is to stay in the core: then it is
// false.
class GilAcquire {
 public:
  GilAcquire();
  ~GilAcquire();
  GilAcquire(const GilAcquire&) = delete;
  GilAcquire& operator=(const GilAcquire&) = delete;
  GilAcquire(GilAcquire&&) = delete;
  GilAcquire& operator=(GilAcquire&&) = delete;

  explicit operator bool() const { return acquired_; }

 private:
  bool acquired_;
  PyGILState_STATE state_ = PyGILState_UNLOCKED;
};

}  // namespace internvl::bindings
