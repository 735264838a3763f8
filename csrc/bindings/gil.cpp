#include "bindings/gil.h"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <thread>

namespace internvl::bindings {
namespace {

std::atomic<bool> exiting{false};
std::atomic<int> taking{0};  // threads that have decided to take the GIL and have not got it yet
thread_local bool exits = false;
thread_local int runs_for_the_core = 0;

bool stays() { return exiting.load() && !exits && runs_for_the_core == 0; }

// Threads that a forked process does not have take nothing any more.
void forget_at_fork() {
  static const int registered = pthread_atfork(nullptr, nullptr, [] { taking.store(0); });
  static_cast<void>(registered);
}

// Whether this thread may take the GIL, which it tells with got_it() when it has it.
bool may_take() {
  forget_at_fork();
  taking.fetch_add(1);
  if (!stays()) return true;
  taking.fetch_sub(1);
  return false;
}

void got_it() { taking.fetch_sub(1); }

// Python's state of a thread of the core, kept until the thread ends. To make and to end one takes a lock of
// the interpreter without the GIL, and a process that is forked meanwhile would wait for it for ever.
class KeptThreadState {
 public:
  KeptThreadState() : made_(PyGILState_Ensure()), state_(PyEval_SaveThread()) {}
  ~KeptThreadState() {
    PyEval_RestoreThread(state_);
    PyGILState_Release(made_);
  }
  KeptThreadState(const KeptThreadState&) = delete;
  KeptThreadState& operator=(const KeptThreadState&) = delete;
  KeptThreadState(KeptThreadState&&) = delete;
  KeptThreadState& operator=(KeptThreadState&&) = delete;

 private:
  PyGILState_STATE made_;
  PyThreadState* state_;
};

[[noreturn]] void stay() {
  while (true) pause();
}

}  // namespace

void keep_other_threads_in_the_core() {
  exits = true;
  exiting.store(true);
  PyThreadState* const state = PyEval_SaveThread();
  while (taking.load() > 0) std::this_thread::yield();
  PyEval_RestoreThread(state);
}

CoreThread::CoreThread() {
  static thread_local std::unique_ptr<KeptThreadState> kept;
  if (PyGILState_GetThisThreadState() == nullptr) kept = std::make_unique<KeptThreadState>();
  ++runs_for_the_core;
}

CoreThread::~CoreThread() { --runs_for_the_core; }

GilRelease::GilRelease() : state_(PyEval_SaveThread()) {}

GilRelease::~GilRelease() {
  if (!may_take()) stay();
  PyEval_RestoreThread(state_);
  got_it();
}

GilAcquire::GilAcquire() : acquired_(may_take()) {
  if (!acquired_) return;
  state_ = PyGILState_Ensure();
  got_it();
}

GilAcquire::~GilAcquire() {
  if (acquired_) PyGILState_Release(state_);
}

}  // namespace internvl::bindings
