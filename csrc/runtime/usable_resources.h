// What the machine leaves to this process: cores and memory, with the limits of its control groups.
//
// A control group's limit holds for all groups below it. So every limit is looked up in the process's own
// group, which /proc/self/cgroup names, and in all groups from there up to the root of the mount, in
// hierarchies of version 1 and 2.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace internvl {

// In all of these, `root` is the folder that holds /proc and /sys: the file system's root, but in tests.

// Physical cores that this process may use: its affinity mask and the CPU quotas of its control groups taken
// into account, one per core where cores have several hardware threads. At least 1.
int usable_cores(const std::string& root = "/");

// Bytes that this process can still take before the system or a control group runs out. Page cache that can
// be dropped counts as free, mapped weights among it. Nothing where the system does not tell.
std::optional<std::uint64_t> usable_memory(const std::string& root = "/");

// Bytes of memory of the machine, or of the smallest of the process's control groups if that is less. Nothing
// where the system does not tell.
std::optional<std::uint64_t> total_memory(const std::string& root = "/");

}  // namespace internvl
