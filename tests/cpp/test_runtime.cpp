#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.h"
#include "runtime/mapped_file.h"
#include "runtime/queued_lock.h"
#include "runtime/thread_team.h"
#include "runtime/weight_file.h"

namespace internvl {
namespace {

std::filesystem::path file_of(std::size_t bytes) {
  const auto path = std::filesystem::temp_directory_path() / ("internvl_test_" + std::to_string(::getpid()));
  std::ofstream file(path, std::ios::binary);
  for (std::size_t i = 0; i < bytes; ++i) file.put(static_cast<char>(i));
  return path;
}

TEST("every thread of a team runs a piece of work once") {
  for (const int threads : {1, 2, 5}) {
    ThreadTeam team(threads);
    CHECK(team.size() == threads);
    for (int round = 0; round < 200; ++round) {
      std::vector<std::atomic<int>> calls(threads);
      team.run([&](int thread) { ++calls[thread]; });
      for (const auto& count : calls) CHECK(count == 1);
    }
  }
}

TEST("a queued lock is given in the order of arrival, and passes over those who gave up") {
  QueuedLock lock;
  std::vector<int> order;
  std::atomic<int> arrived{0};
  std::vector<std::thread> threads;
  {
    const QueuedTurn first(lock, [] {});
    for (int i = 0; i < 5; ++i) {
      threads.emplace_back([&, i] {
        bool counted = false;
        const auto watch = [&] {
          if (!counted) ++arrived;
          counted = true;
          if (i % 2 == 1) throw std::runtime_error("given up");
        };
        if (i % 2 == 1) {
          CHECK_THROWS(std::runtime_error, QueuedTurn(lock, watch));
          return;
        }
        const QueuedTurn mine(lock, watch);
        order.push_back(i);
      });
      while (arrived <= i) std::this_thread::yield();
    }
    CHECK(order.empty());
  }
  for (std::thread& thread : threads) thread.join();
  CHECK((order == std::vector<int>{0, 2, 4}));
  const QueuedTurn again(lock, [] { throw std::runtime_error("it is free"); });
}

TEST("ranges cover the count exactly once, whatever the grain") {
  ThreadTeam team(3);
  for (const std::size_t count : {0, 1, 7, 64, 1000}) {
    for (const std::size_t grain : {0, 1, 3, 64, 5000}) {
      std::vector<std::atomic<int>> seen(count);
      team.for_each_range(count, grain, [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) ++seen[i];
      });
      for (const auto& times : seen) CHECK(times == 1);
    }
  }
}

TEST("an exception reaches the caller and the team goes on working") {
  ThreadTeam team(2);
  for (int round = 0; round < 50; ++round) {
    CHECK_THROWS(std::runtime_error, team.run([](int) { throw std::runtime_error("expected"); }));
    std::atomic<int> calls{0};
    team.run([&](int) { ++calls; });
    CHECK(calls == 2);
  }
}

TEST("several callers take turns") {
  ThreadTeam team(2);
  std::atomic<int> total{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int round = 0; round < 100; ++round) team.run([&](int) { ++total; });
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(total == 4 * 100 * 2);
}

TEST("a team's size is bounded") {
  CHECK_THROWS(DeviceError, ThreadTeam(-1));
  CHECK_THROWS(DeviceError, ThreadTeam(100000));
  CHECK(usable_cores() >= 1);
}

// In the child of a fork, no worker exists any more.
TEST("a forked process can destroy a team, and is told that it cannot use it") {
  auto team = std::make_unique<ThreadTeam>(3);
  std::atomic<int> shares{0};
  team->run([&](int) { ++shares; });
  usleep(5000);  // by now the workers sleep
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    int status = 1;
    try {
      team->run([](int) {});
    } catch (const DeviceError&) {
      status = 0;
    }
    team.reset();
    _exit(status);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  team->run([&](int) { ++shares; });
  CHECK(shares == 6);
}

TEST("a forked process can make a team of its own") {
  // qemu-user aborts where the child of a process with threads starts a thread.
  if (std::getenv("INTERNVL_TEST_EMULATED") != nullptr) return;
  ThreadTeam team(3);
  team.run([](int) {});
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    ThreadTeam own(2);
    std::atomic<int> shares{0};
    own.run([&](int) { ++shares; });
    _exit(shares == 2 ? 0 : 1);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
}

TEST("workers that were left to sleep wake up for every piece") {
  ThreadTeam team(3);
  std::atomic<int> shares{0};
  for (int pause : {0, 100, 3000, 0, 500, 20, 0, 0, 1000}) {
    usleep(static_cast<useconds_t>(pause));
    for (int i = 0; i < 50; ++i) team.run([&](int) { ++shares; });
  }
  CHECK(shares == 9 * 50 * 3);
}

TEST("a weight file's tensors are views of the right bytes") {
  const auto path = file_of(64);
  const WeightFile file(path, {{"a", DataType::int8, {2, 4}, 8, 16}, {"b", DataType::int4, {2, 4}, 60, 64}});
  CHECK(file.contains("a") && !file.contains("c"));
  const std::int64_t shape[] = {2, 4};
  CHECK(file.tensor("a", shape).as<std::int8_t>()[3] == 11);
  CHECK(file.tensor("b").bytes.size() == 4);
  const std::int64_t other[] = {4, 2};
  CHECK_THROWS(BundleError, file.tensor("a", other));
  CHECK_THROWS(BundleError, file.tensor("c"));
  std::filesystem::remove(path);
}

TEST("a weight file refuses entries that lie") {
  const auto path = file_of(64);
  const auto load = [&](TensorEntry entry) { WeightFile(path, {std::move(entry)}); };
  CHECK_THROWS(BundleError, load({"outside", DataType::int8, {8}, 60, 68}));
  CHECK_THROWS(BundleError, load({"backwards", DataType::int8, {8}, 16, 8}));
  CHECK_THROWS(BundleError, load({"short", DataType::float32, {8}, 0, 16}));
  CHECK_THROWS(BundleError, load({"negative", DataType::int8, {-8}, 0, 8}));
  CHECK_THROWS(BundleError, load({"overflow", DataType::int8, {1LL << 40, 1LL << 40}, 0, 0}));
  CHECK_THROWS(BundleError, load({"odd", DataType::int4, {3}, 0, 1}));
  CHECK_THROWS(BundleError,
               WeightFile(path, {{"a", DataType::int8, {1}, 0, 1}, {"a", DataType::int8, {1}, 0, 1}}));
  std::filesystem::remove(path);
}

TEST("a missing, empty or odd file is a bundle error") {
  CHECK_THROWS(BundleError, MappedFile("/does/not/exist"));
  CHECK_THROWS(BundleError, MappedFile(std::filesystem::temp_directory_path()));
  const auto path = file_of(0);
  CHECK_THROWS(BundleError, MappedFile(path));
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace internvl

int main() { return internvl::test::run_all(); }
