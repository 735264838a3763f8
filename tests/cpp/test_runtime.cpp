#include <pthread.h>
#include <sys/stat.h>
#include <sys/times.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "check.h"
#include "runtime/core_meter.h"
#include "runtime/mapped_file.h"
#include "runtime/queued_lock.h"
#include "runtime/regular_file.h"
#include "runtime/sha256.h"
#include "runtime/team_width.h"
#include "runtime/thread_team.h"
#include "runtime/usable_resources.h"
#include "runtime/weight_file.h"

namespace internvl {
namespace {

std::filesystem::path file_of(std::size_t bytes) {
  const auto path = std::filesystem::temp_directory_path() / ("internvl_test_" + std::to_string(::getpid()));
  std::ofstream file(path, std::ios::binary);
  for (std::size_t i = 0; i < bytes; ++i) file.put(static_cast<char>(i));
  return path;
}

using std::chrono::milliseconds;

TEST("the caller works on every piece, and of the other threads each at most once") {
  for (const int threads : {1, 2, 5}) {
    ThreadTeam team(threads);
    CHECK(team.size() == threads);
    for (int round = 0; round < 200; ++round) {
      std::vector<std::atomic<int>> calls(threads);
      team.run([&](int thread) { ++calls[thread]; });
      CHECK(calls[0] == 1);
      for (const auto& count : calls) CHECK(count <= 1);
    }
  }
}

TEST("all threads of a new team come to a piece that lasts") {
  ThreadTeam team(5);
  std::atomic<int> calls{0};
  team.run([&](int) {
    ++calls;
    while (calls < 5) std::this_thread::yield();
  });
  CHECK(calls == 5);
}

#if !defined(__SANITIZE_THREAD__)  // which delivers signals late or never

// A thread that has lost its core: it stands still in a signal's handler.
std::atomic<bool> away{false};
std::atomic<bool> back{false};

void stay_away(int) {
  away = true;
  while (!back) {
    const timespec pause{0, 1000000};
    nanosleep(&pause, nullptr);
  }
  away = false;
}

TEST("a worker that has lost its core holds up no piece that it has not begun") {
  ThreadTeam team(2);
  pthread_t worker{};
  std::atomic<bool> came{false};
  team.run([&](int thread) {
    if (thread == 1) {
      worker = pthread_self();
      came = true;
    }
    while (!came) std::this_thread::yield();
  });
  std::signal(SIGUSR1, stay_away);
  back = false;
  pthread_kill(worker, SIGUSR1);
  while (!away) std::this_thread::yield();
  for (int round = 0; round < 100; ++round) {
    std::vector<int> seen(64);
    team.share(64, 3, [&](int thread, std::size_t begin, std::size_t end) {
      CHECK(thread == 0);
      for (std::size_t i = begin; i < end; ++i) ++seen[i];
    });
    CHECK((seen == std::vector<int>(64, 1)));
  }
  back = true;
  while (away) std::this_thread::yield();
  std::signal(SIGUSR1, SIG_DFL);
  for (came = false; !came;) team.run([&](int thread) { came = came || thread == 1; });
}

#endif

TEST("pieces are done exactly once however long each thread is away in the middle of them") {
  ThreadTeam team(4);
  std::atomic<unsigned> random{1};
  for (int round = 0; round < 60; ++round) {
    std::vector<std::atomic<int>> seen(97);
    team.share(97, 5, [&](int, std::size_t begin, std::size_t end) {
      const unsigned drawn = random.fetch_add(0x9e3779b9U) >> 22;  // of 1024
      if (drawn < 64) usleep(20 * drawn);
      for (std::size_t i = begin; i < end; ++i) ++seen[i];
    });
    for (const auto& times : seen) CHECK(times == 1);
  }
}

TEST("a worker that keeps losing its core is left out, and tried again later") {
  ThreadTeam team(2);
  // Whether the worker came, given time; it is away for most of its share.
  const auto comes = [&] {
    std::atomic<bool> came{false};
    team.run([&](int thread) {
      if (thread == 1) {
        came = true;
        usleep(4000);
      }
      for (int i = 0; i < 40 && !came; ++i) usleep(500);
    });
    return came.load();
  };
  while (comes()) continue;
  while (!comes()) continue;
}

TEST("a team does without a thread that costs more than it brings") {
  const auto start = TeamWidth::Clock::now();
  const auto after = [&](int ms) { return start + milliseconds(ms); };
  for (const int most : {2, 8}) {
    TeamWidth quiet(most);
    TeamWidth shared(most);
    // At less than the share of one thread, all of them together are still faster.
    for (int ms = 4; ms < 400; ms += 4) {
      quiet.add(after(ms), milliseconds(4), std::chrono::microseconds(most == 2 ? 1600 : 300));
      CHECK(quiet.at(after(ms)) == most);
    }
    // Time that was lost counts before the window ends: nothing can make up for it any more.
    shared.add(after(8), milliseconds(8), milliseconds(7));
    CHECK(shared.at(after(9)) == most - 1);
    CHECK(shared.at(after(100)) == most - 1);
    CHECK(shared.at(after(200)) == most);
  }
}

TEST("threads are left out one by one, and the longer the oftener it was right") {
  auto now = TeamWidth::Clock::now();
  TeamWidth width(3);
  const auto lose = [&] { width.add(now += milliseconds(16), milliseconds(16), milliseconds(15)); };
  const auto regained = [&](int most) {
    int waited = 0;
    for (; width.at(now) < most; ++waited) now += milliseconds(1);
    return waited;
  };
  lose();
  CHECK(width.at(now) == 2);
  lose();
  CHECK(width.at(now) == 1);
  int before = regained(3);
  CHECK(before == TeamWidth::shortest_hold.count());
  for (int round = 0; round < 8; ++round) {
    lose();
    const int waited = regained(3);
    CHECK(waited == std::min<int>(2 * before, TeamWidth::longest_hold.count()));
    before = waited;
  }
  CHECK(before == TeamWidth::longest_hold.count());
  // A machine that is quiet again is soon trusted again.
  for (int i = 0; i < 10; ++i) width.add(now += milliseconds(16), milliseconds(16), {});
  lose();
  CHECK(regained(3) == TeamWidth::shortest_hold.count());
}

TEST("a meter tells how long a thread had no core") {
  CoreMeter meter;
  meter.begin();
  usleep(5000);
  CHECK(meter.end(CoreMeter::Clock::now()) >= milliseconds(4));
  const auto begun = meter.begin();
  const auto used = [] {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
  };
  for (const auto until = used() + milliseconds(3); used() < until;) continue;
  const auto end = CoreMeter::Clock::now();
  CHECK(meter.end(end) <= end - begun - milliseconds(2));
  const auto shortly = meter.begin();
  CHECK(meter.end(shortly + std::chrono::microseconds(100)) == CoreMeter::Clock::duration{});
}

TEST("a team without work burns no processor time") {
  ThreadTeam team(4);
  team.run([](int) {});
  usleep(20000);  // they watch for a moment before they sleep
  tms before{};
  tms after{};
  times(&before);
  usleep(500000);
  times(&after);
  CHECK(after.tms_utime + after.tms_stime - before.tms_utime - before.tms_stime <= 1);
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
    CHECK(calls == 1 || calls == 2);
  }
}

TEST("several callers take turns") {
  ThreadTeam team(2);
  std::atomic<int> total{0};
  std::atomic<int> callers_inside{0};
  std::atomic<bool> alone{true};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int round = 0; round < 100; ++round) {
        team.share(8, 1, [&](int thread, std::size_t, std::size_t) {
          if (thread == 0 && ++callers_inside != 1) alone = false;
          ++total;
          if (thread == 0) --callers_inside;
        });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(total == 4 * 100 * 8);
  CHECK(alone);
}

TEST("a team's size is bounded") {
  CHECK_THROWS(DeviceError, ThreadTeam(-1));
  CHECK_THROWS(DeviceError, ThreadTeam(100000));
  CHECK(usable_cores() >= 1);
}

// A machine of files: /proc and /sys below a temporary folder.
class FakeMachine {
 public:
  FakeMachine() { write("/proc/meminfo", "MemTotal: 9000 kB\nMemFree: 5 kB\nMemAvailable: 8000 kB\n"); }
  FakeMachine(const std::string& groups, const std::string& mounts) : FakeMachine() {
    write("/proc/self/cgroup", groups);
    write("/proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mounts);
  }
  ~FakeMachine() { std::filesystem::remove_all(root_); }
  FakeMachine(const FakeMachine&) = delete;
  FakeMachine& operator=(const FakeMachine&) = delete;
  FakeMachine(FakeMachine&&) = delete;
  FakeMachine& operator=(FakeMachine&&) = delete;

  void write(const std::string& path, const std::string& text) const {
    const std::filesystem::path file = root_.string() + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  // As many cores as the affinity mask has.
  int all() const { return usable_cores((root_ / "nothing").string()); }
  int cores() const { return usable_cores(root_.string()); }
  std::uint64_t memory() const { return usable_memory(root_.string()).value_or(0) / 1024; }
  std::uint64_t total() const { return total_memory(root_.string()).value_or(0) / 1024; }

 private:
  std::filesystem::path root_ =
      std::filesystem::temp_directory_path() / ("internvl_machine_" + std::to_string(::getpid()));
};

const std::string second_version = "30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
const std::string first_version =
    "31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
const std::string one_core = "100000 100000\n";

TEST("without control groups the machine alone counts") {
  const FakeMachine machine;
  CHECK(machine.cores() == machine.all());
  CHECK(machine.memory() == 8000 && machine.total() == 9000);
  CHECK(!usable_memory("/does/not/exist") && !total_memory("/does/not/exist"));
}

TEST("a quota of the process's own group of version 2 counts, and of every group above it") {
  for (const char* group : {"/system.slice/robot.service", "/system.slice", ""}) {
    const FakeMachine machine("0::/system.slice/robot.service\n", second_version);
    CHECK(machine.cores() == machine.all());
    machine.write("/sys/fs/cgroup/system.slice/robot.service/cpu.max", "max 100000\n");
    machine.write("/sys/fs/cgroup/system.slice/other.service/cpu.max", one_core);
    CHECK(machine.cores() == machine.all());
    machine.write(std::string("/sys/fs/cgroup") + group + "/cpu.max", one_core);
    CHECK(machine.cores() == 1);
  }
}

TEST("a quota of the process's own group of version 1 counts, and of every group above it") {
  for (const char* group : {"/a/b", "/a", ""}) {
    const FakeMachine machine("12:memory:/m\n4:cpu,cpuacct:/a/b\n1:name=systemd:/x\n", first_version);
    const std::string folder = std::string("/sys/fs/cgroup/cpu,cpuacct") + group;
    machine.write("/sys/fs/cgroup/cpu,cpuacct/m/cpu.cfs_quota_us", "50000\n");
    machine.write("/sys/fs/cgroup/cpu,cpuacct/m/cpu.cfs_period_us", "100000\n");
    machine.write(folder + "/cpu.cfs_period_us", "50000\n");
    machine.write(folder + "/cpu.cfs_quota_us", "-1\n");
    CHECK(machine.cores() == machine.all());
    machine.write(folder + "/cpu.cfs_quota_us", "40000\n");
    CHECK(machine.cores() == 1);
  }
}

TEST("a part of a core is rounded up") {
  const FakeMachine machine("0::/\n", second_version);
  machine.write("/sys/fs/cgroup/cpu.max", "110000 100000\n");
  CHECK(machine.cores() == std::min(2, machine.all()));
}

TEST("a container sees its own group at the root of the mount, under its name outside") {
  const FakeMachine machine("4:cpu:/docker/12ab/inner\n0::/\n",
                            "31 30 0:27 /docker/12ab /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n");
  machine.write("/sys/fs/cgroup/cpu/inner/cpu.cfs_period_us", "100000");
  machine.write("/sys/fs/cgroup/cpu/inner/cpu.cfs_quota_us", "100000");
  CHECK(machine.cores() == 1);
}

TEST("a hierarchy that is mounted from above the namespace's root limits by what is mounted") {
  const FakeMachine machine("0::/\n", "30 22 0:26 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
  machine.write("/sys/fs/cgroup/cpu.max", one_core);
  CHECK(machine.cores() == 1);
}

TEST("a mounted group that is none of the process's does not count") {
  for (const char* mounted : {"/docker/12", "/docker/12ab/inner/most", "/../other"}) {
    const FakeMachine machine("0::/docker/12ab/inner\n", "30 22 0:26 " + std::string(mounted) +
                                                             " /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    machine.write("/sys/fs/cgroup/cpu.max", one_core);
    CHECK(machine.cores() == machine.all());
  }
  const FakeMachine outside("0::/../elsewhere\n", second_version);
  outside.write("/sys/fs/cgroup/cpu.max", one_core);
  CHECK(outside.cores() == outside.all());
}

TEST("mount points and groups have any name") {
  const FakeMachine machine("0::/a:b/c d\n", "30 22 0:26 / /my\\040groups rw - cgroup2 none rw\n");
  machine.write("/my groups/a:b/c d/cpu.max", one_core);
  CHECK(machine.cores() == 1);
}

TEST("memory is what the smallest group has left, its page cache free") {
  const FakeMachine machine("0::/a/b\n", second_version);
  machine.write("/sys/fs/cgroup/a/memory.max", std::to_string(6000 * 1024));
  machine.write("/sys/fs/cgroup/a/memory.current", std::to_string(5000 * 1024));
  CHECK(machine.memory() == 1000 && machine.total() == 6000);
  machine.write("/sys/fs/cgroup/a/memory.stat",
                "anon 9\nactive_file " + std::to_string(1500 * 1024) + "\ninactive_file 1024\n");
  CHECK(machine.memory() == 2501);
  machine.write("/sys/fs/cgroup/a/b/memory.max", "max\n");
  machine.write("/sys/fs/cgroup/a/b/memory.high", std::to_string(3000 * 1024));
  machine.write("/sys/fs/cgroup/a/b/memory.current", std::to_string(2000 * 1024));
  CHECK(machine.memory() == 1000 && machine.total() == 3000);
  machine.write("/sys/fs/cgroup/a/b/memory.current", std::to_string(4000 * 1024));
  CHECK(machine.memory() == 0);
}

TEST("memory's limit of version 1 counts, its largest number is none") {
  const FakeMachine machine("4:memory:/a/b\n", first_version);
  machine.write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  machine.write("/sys/fs/cgroup/memory/memory.usage_in_bytes", "4096\n");
  CHECK(machine.memory() == 8000 && machine.total() == 9000);
  machine.write("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", std::to_string(3000 * 1024));
  machine.write("/sys/fs/cgroup/memory/a/memory.usage_in_bytes", std::to_string(2500 * 1024));
  machine.write("/sys/fs/cgroup/memory/a/memory.stat", "inactive_file 0\ntotal_inactive_file 102400\n");
  CHECK(machine.memory() == 600 && machine.total() == 3000);
}

TEST("files that say nothing limit nothing") {
  const FakeMachine machine("nonsense\n0::/a\n4:\n", second_version + "30 22\n- - - - - -\n\n");
  machine.write("/sys/fs/cgroup/a/cpu.max", "much 0\n");
  machine.write("/sys/fs/cgroup/cpu.max", "100000 0\n");
  machine.write("/sys/fs/cgroup/a/memory.max", "\n");
  CHECK(machine.cores() == machine.all() && machine.memory() == 8000);
}

// In the child of a fork, no worker exists any more.
TEST("a forked process can destroy a team, and is told that it cannot use it") {
  auto team = std::make_unique<ThreadTeam>(3);
  std::atomic<int> shares{0};
  team->for_each_range(6, 1, [&](std::size_t, std::size_t) { ++shares; });
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
  team->for_each_range(6, 1, [&](std::size_t, std::size_t) { ++shares; });
  CHECK(shares == 12);
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
    own.for_each_range(6, 1, [&](std::size_t, std::size_t) { ++shares; });
    _exit(shares == 6 ? 0 : 1);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
}

TEST("workers that were left to sleep wake up for the next piece") {
  for (int pause : {0, 100, 3000, 500, 20, 10000}) {
    ThreadTeam team(3);
    std::atomic<int> shares{0};
    usleep(static_cast<useconds_t>(pause));
    team.run([&](int) {
      ++shares;
      while (shares < 3) std::this_thread::yield();
    });
    CHECK(shares == 3);
  }
}

std::string sha256(std::string_view text) {
  Sha256 digest;
  digest.update(std::as_bytes(std::span(text)));
  return digest.finish();
}

TEST("SHA-256 is that of the published examples") {
  CHECK(sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(sha256(
            "abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrs"
            "mnopqrstnopqrstu") == "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1");
  CHECK(sha256(std::string(1'000'000, 'a')) ==
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST("SHA-256 does not depend on how the bytes come") {
  const std::string text(200, 'x');
  for (std::size_t length = 0; length <= text.size(); ++length) {
    const auto bytes = std::as_bytes(std::span(text)).first(length);
    const std::string whole = sha256(std::string_view(text).substr(0, length));
    for (const std::size_t step : {1, 7, 63, 64, 65}) {
      Sha256 digest;
      for (std::size_t at = 0; at < length; at += step)
        digest.update(bytes.subspan(at, std::min(step, length - at)));
      CHECK(digest.finish() == whole);
    }
  }
  Sha256 twice;
  twice.update(std::as_bytes(std::span(text)));
  twice.finish();
  CHECK(twice.finish() == sha256(""));
}

TEST("only regular files are opened") {
  const auto path = file_of(10);
  const auto file = RegularFile::open(path);
  CHECK(file && file->size() == 10);
  CHECK(file->read(3, 4) == "\3\4\5\6" && file->read(8, 4) == "\10\11" && file->read(20, 4).empty());
  CHECK(!RegularFile::open(path.parent_path()));
  CHECK(!RegularFile::open(path / "below a file"));
  std::filesystem::remove(path);
  CHECK(!RegularFile::open(path));
  CHECK(::mkfifo(path.c_str(), 0600) == 0);
  CHECK(!RegularFile::open(path));
  std::filesystem::remove(path);
  try {
    RegularFile::open(path.parent_path() / std::string(5000, 'x'));
    CHECK(false);
  } catch (const FileError& error) {
    CHECK(error.error_number() == ENAMETOOLONG && error.path().ends_with("xxx"));
    CHECK(std::string_view(error.what()).ends_with("xxx: cannot be read (File name too long)."));
  }
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
