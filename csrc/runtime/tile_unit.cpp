#include "runtime/tile_unit.h"

#include "runtime/tile_shapes.h"

#if defined(INTERNVL_EMULATED_AMX)
#include "runtime/emulated_tiles.h"
#elif defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace internvl {
namespace {

#if defined(INTERNVL_EMULATED_AMX)

TileUnit look() { return TileUnit::usable; }
void load(const TileShapes& shapes) { emulated_tiles().configure(shapes); }
void release() { emulated_tiles().release(); }

#elif defined(__x86_64__)

// ARCH_REQ_XCOMP_PERM and XFEATURE_XTILEDATA of the kernel's headers, which may be older than the kernel.
bool ask_kernel() {
  constexpr long request_permission = 0x1023;
  constexpr long tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

std::uint64_t saved_registers() {
  std::uint32_t low = 0;
  std::uint32_t high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<std::uint64_t>(high) << 32U | low;
}

TileUnit look() {
  std::uint32_t a = 0;
  std::uint32_t b = 0;
  std::uint32_t c = 0;
  std::uint32_t d = 0;
  constexpr std::uint32_t os_saves = 1U << 27U;  // OSXSAVE: there is an XCR0
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & os_saves) == 0) return TileUnit::absent;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return TileUnit::absent;
  return tile_unit_of(d, saved_registers(), [] { return ask_kernel(); });
}

// Inline assembly, so that the rest of this source needs no more than the baseline.
void load(const TileShapes& shapes) { asm volatile("ldtilecfg %0" : : "m"(shapes)); }
void release() { asm volatile("tilerelease"); }

#else

TileUnit look() { return TileUnit::absent; }
void load(const TileShapes&) {}
void release() {}

#endif

}  // namespace

TileUnit tile_unit_of(std::uint32_t features, std::uint64_t saved_registers, FunctionRef<bool()> granted) {
  constexpr std::uint32_t needed = 1U << 22U | 1U << 24U | 1U << 25U;  // AMX-BF16, AMX-TILE, AMX-INT8
  constexpr std::uint64_t tile_state = 3U << 17U;                      // the shapes, the registers
  if ((features & needed) != needed) return TileUnit::absent;
  if ((saved_registers & tile_state) != tile_state) return TileUnit::refused;
  return granted() ? TileUnit::usable : TileUnit::refused;
}

TileUnit tile_unit() {
  static const TileUnit unit = look();
  return unit;
}

TileRegion::TileRegion() {
  if (tile_unit() == TileUnit::usable) load(whole_tiles);
}

TileRegion::~TileRegion() {
  if (tile_unit() == TileUnit::usable) release();
}

}  // namespace internvl
