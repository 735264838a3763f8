#include "runtime/usable_resources.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <set>
#include <sstream>
#include <string_view>
#include <vector>

namespace internvl {
namespace {

std::string first_line(const std::string& path) {
  std::string line;
  std::ifstream file(path);
  std::getline(file, line);
  return line;
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const std::size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

bool contains(const std::vector<std::string_view>& parts, std::string_view part) {
  return std::find(parts.begin(), parts.end(), part) != parts.end();
}

// Nothing for "max", -1 and everything else that is no number of 0 or more.
std::optional<std::uint64_t> number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<std::uint64_t> number_in(const std::string& path) { return number(first_line(path)); }

// A field of /proc/self/mountinfo, where blanks are written as \040.
std::string unescape(std::string_view field) {
  const auto octal = [&](std::size_t at) { return field[at] >= '0' && field[at] <= '7'; };
  std::string text;
  for (std::size_t i = 0; i < field.size(); ++i) {
    if (field[i] == '\\' && i + 3 < field.size() && octal(i + 1) && octal(i + 2) && octal(i + 3)) {
      text += static_cast<char>((field[i + 1] - '0') * 64 + (field[i + 2] - '0') * 8 + (field[i + 3] - '0'));
      i += 3;
    } else {
      text += field[i];
    }
  }
  return text;
}

// A group's path below the group that is mounted; nothing if it does not lie there. Paths begin at the root
// of the process's namespace, and what is above that has no name but "..".
std::optional<std::string> below(const std::string& group, const std::string& mounted) {
  std::string rest = group;
  if (mounted != "/") {
    const auto named = [](std::string_view part) { return !part.empty() && part != ".."; };
    if (!(group + "/").starts_with(mounted + "/")) {
      const std::vector<std::string_view> parts = split(mounted, '/');
      const bool above = std::none_of(parts.begin(), parts.end(), named) && !group.starts_with("/..");
      if (above) return "";  // of the groups between them only their names are unknown
      return std::nullopt;
    }
    rest.erase(0, mounted.size());
  }
  if (contains(split(rest, '/'), "..")) return std::nullopt;
  while (rest.ends_with('/')) rest.pop_back();
  return rest;
}

// The path of the process's group in the hierarchy of a controller of version 1; of version 2 where
// `controller` is empty.
std::optional<std::string> group_of(const std::string& root, std::string_view controller) {
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    // 4:cpu,cpuacct:/path
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string_view controllers = std::string_view(line).substr(first + 1, second - first - 1);
    if (controller.empty() ? controllers.empty() : contains(split(controllers, ','), controller))
      return line.substr(second + 1);
  }
  return std::nullopt;
}

// The folders of the process's group and of all groups above it that can be seen.
std::vector<std::string> group_folders(const std::string& root, std::string_view controller) {
  const std::optional<std::string> group = group_of(root, controller);
  if (!group) return {};
  std::vector<std::string> folders;
  std::ifstream file(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    // 32 31 0:29 /mounted /where rw,relatime shared:1 - cgroup cgroup rw,cpu
    const std::vector<std::string_view> fields = split(line, ' ');
    const auto dash = std::find(fields.begin(), fields.end(), "-");
    if (fields.size() < 5 || fields.end() - dash < 4) continue;
    const bool same = controller.empty() ? dash[1] == "cgroup2"
                                         : dash[1] == "cgroup" && contains(split(dash[3], ','), controller);
    if (!same) continue;
    const std::string where = root + unescape(fields[4]);
    std::optional<std::string> rest = below(*group, unescape(fields[3]));
    while (rest) {
      folders.push_back(where + *rest);
      if (rest->empty()) break;
      rest->erase(rest->rfind('/'));
    }
  }
  return folders;
}

// The least CPU quota, in cores; infinite where there is none.
double quota_cores(const std::string& root) {
  double least = INFINITY;
  const auto take = [&](std::optional<std::uint64_t> quota, std::optional<std::uint64_t> period) {
    if (quota && period && *quota > 0 && *period > 0)
      least = std::min(least, static_cast<double>(*quota) / static_cast<double>(*period));
  };
  for (const std::string& folder : group_folders(root, "")) {
    const std::string line = first_line(folder + "/cpu.max");
    const std::vector<std::string_view> fields = split(line, ' ');
    if (fields.size() == 2) take(number(fields[0]), number(fields[1]));
  }
  for (const std::string& folder : group_folders(root, "cpu"))
    take(number_in(folder + "/cpu.cfs_quota_us"), number_in(folder + "/cpu.cfs_period_us"));
  return least;
}

// The sum of the lines of a file whose first words are listed; nothing if it has none of them.
std::optional<std::uint64_t> sum_of_lines(const std::string& path,
                                          const std::vector<std::string_view>& names) {
  std::optional<std::uint64_t> sum;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name;
    std::uint64_t value = 0;
    if (words >> name >> value && contains(names, name)) sum = sum.value_or(0) + value;
  }
  return sum;
}

struct MemoryLimit {
  std::uint64_t limit;
  std::uint64_t used;  // without page cache that can be dropped
};

std::vector<MemoryLimit> memory_limits(const std::string& root) {
  std::vector<MemoryLimit> limits;
  const auto take = [&](std::optional<std::uint64_t> limit, std::optional<std::uint64_t> used,
                        std::optional<std::uint64_t> cache) {
    if (!limit) return;
    limits.push_back({*limit, used.value_or(0) - std::min(used.value_or(0), cache.value_or(0))});
  };
  for (const std::string& folder : group_folders(root, "")) {
    const auto cache = sum_of_lines(folder + "/memory.stat", {"active_file", "inactive_file"});
    const auto used = number_in(folder + "/memory.current");
    // Above memory.high a process is slowed down until it hardly runs.
    for (const char* name : {"/memory.max", "/memory.high"}) take(number_in(folder + name), used, cache);
  }
  for (const std::string& folder : group_folders(root, "memory")) {
    const auto cache = sum_of_lines(folder + "/memory.stat", {"total_active_file", "total_inactive_file"});
    take(number_in(folder + "/memory.limit_in_bytes"), number_in(folder + "/memory.usage_in_bytes"), cache);
  }
  return limits;
}

std::optional<std::uint64_t> of_machine(const std::string& root, std::string_view name) {
  const auto kibibytes = sum_of_lines(root + "/proc/meminfo", {name});
  if (!kibibytes) return std::nullopt;
  return *kibibytes * 1024;
}

}  // namespace

int usable_cores(const std::string& root) {
  int cores = 0;
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) {
    std::set<std::string> seen;  // hardware threads of one core name the same siblings
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (!CPU_ISSET(cpu, &allowed)) continue;
      const std::string siblings = first_line(root + "/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                                              "/topology/thread_siblings_list");
      if (siblings.empty() || seen.insert(siblings).second) ++cores;
    }
  } else {
    cores = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  }
  const double quota = quota_cores(root);
  if (quota < cores) cores = static_cast<int>(std::ceil(quota));
  return std::max(cores, 1);
}

std::optional<std::uint64_t> usable_memory(const std::string& root) {
  std::optional<std::uint64_t> usable = of_machine(root, "MemAvailable:");
  for (const auto [limit, used] : memory_limits(root)) {
    const std::uint64_t left = limit - std::min(limit, used);
    usable = std::min(usable.value_or(left), left);
  }
  return usable;
}

std::optional<std::uint64_t> total_memory(const std::string& root) {
  std::optional<std::uint64_t> total = of_machine(root, "MemTotal:");
  for (const auto [limit, used] : memory_limits(root)) total = std::min(total.value_or(limit), limit);
  return total;
}

}  // namespace internvl
