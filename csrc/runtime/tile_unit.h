// The tile unit of x86 processors (AMX): eight registers of 16 rows of 64 bytes, and instructions that
// multiply matrices which stand there.
#pragma once

#include <cstdint>

#include "runtime/function_ref.h"

namespace internvl {

enum class TileUnit : std::uint8_t {
  absent,
  refused,  // the processor has one, and the system does not let this process use it
  usable,
};

// What CPUID (leaf 7, EDX) and XCR0 say, and whether the kernel grants the tile registers, which is asked
// only where the rest is there.
TileUnit tile_unit_of(std::uint32_t features, std::uint64_t saved_registers, FunctionRef<bool()> granted);

// This process's. The kernel is asked at the first call, once, and answers for all threads of the process.
TileUnit tile_unit();

// While it lives, this thread's tiles have the shapes of whole_tiles, where the unit is usable. They are
// given back at its end: another library in the thread may have shapes of its own, and a thread that holds
// tiles costs the kernel 8 KB at every switch.
class TileRegion {
 public:
  TileRegion();
  ~TileRegion();
  TileRegion(const TileRegion&) = delete;
  TileRegion& operator=(const TileRegion&) = delete;
  TileRegion(TileRegion&&) = delete;
  TileRegion& operator=(TileRegion&&) = delete;
};

}  // namespace internvl
