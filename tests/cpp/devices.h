// The devices that operations and models are tested on.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ops/cpu/cpu_device.h"
#include "ops/ops.h"

namespace internvl::test {

// The CPU with so many threads; its instruction set is the environment's.
inline std::shared_ptr<const CpuDevice> cpu(int threads) {
  return std::make_shared<CpuDevice>(std::make_shared<ThreadTeam>(threads));
}

struct TestDevice {
  std::string name;
  std::shared_ptr<const Device> device;
};

// Every test of an operation runs once for each of these, and gives the same bits on those that are equal but
// for their threads.
inline std::vector<TestDevice> devices() { return {{"cpu, 1 thread", cpu(1)}, {"cpu, 3 threads", cpu(3)}}; }

}  // namespace internvl::test
