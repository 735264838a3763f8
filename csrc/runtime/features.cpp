#include "runtime/features.h"

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdlib>
#include <string>

#include "runtime/error.h"
#include "runtime/instruction_sets.h"  // made by cmake/InstructionSets.cmake
#include "runtime/tile_unit.h"

namespace internvl {
namespace {

#if defined(__x86_64__)
// Dot products of bytes in VEX encoding, which the compiler's run time does not know of in GCC 12. They need
// no more of the system than AVX2 does.
bool has_avx_vnni() {
#if defined(INTERNVL_EMULATED_AVX512)
  return true;
#elif defined(INTERNVL_AVX_VNNI_IN_EVEX)
  return __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
#else
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  constexpr unsigned avx_vnni = 1U << 4U;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & avx_vnni) != 0;
#endif
}
#endif

Features detect() {
  Features found;
#if defined(__x86_64__)
  // The compiler's run time asks CPUID for the instructions and XCR0 whether the system saves their
  // registers.
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c")) {
    return found;
  }
  found.add(Feature::avx2);
  if (has_avx_vnni()) found.add(Feature::avx_vnni);
#if defined(INTERNVL_EMULATED_AVX512)
  found.add(Feature::avx512);
  found.add(Feature::avx512_bf16);
#else
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vnni")) {
    found.add(Feature::avx512);
    if (__builtin_cpu_supports("avx512bf16")) found.add(Feature::avx512_bf16);
  }
#endif
  // Kernels for tiles use the others around them.
  if (found.has(Feature::avx512_bf16) && tile_unit() == TileUnit::usable) {
    found.add(Feature::amx_int8);
    found.add(Feature::amx_bf16);
  }
#elif defined(__aarch64__)
  found.add(Feature::neon);
  if ((getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0) {
    found.add(Feature::dotprod);
    constexpr unsigned long matrices = HWCAP2_I8MM | HWCAP2_BF16;
    if ((getauxval(AT_HWCAP2) & matrices) == matrices) found.add(Feature::i8mm);
  }
#endif
  return found;
}

Features processor() {
  static const Features found = detect();
  return found;
}

Features choose() {
  const char* wanted = std::getenv(instruction_set_variable);
  if (wanted == nullptr || *wanted == '\0') return processor();
  std::string names;
  for (const InstructionSet& set : instruction_sets) {
    if (!processor().include(set.features)) continue;
    if (set.name == wanted) return set.features;
    names += (names.empty() ? "" : ", ") + std::string(set.name);
  }
  throw DeviceError(
      std::string(instruction_set_variable) + "=" + wanted +
      " names an instruction set that this processor or this build does not have; expected one of: " + names +
      ". Unset the variable to use the best one.");
}

}  // namespace

Features features() {
  static const Features chosen = choose();
  return chosen;
}

std::vector<std::string_view> available_instruction_sets() {
  std::vector<std::string_view> names;
  for (const InstructionSet& set : instruction_sets) {
    if (processor().include(set.features)) names.push_back(set.name);
  }
  return names;
}

std::string_view instruction_set(Features features) {
  std::string_view best;
  for (const InstructionSet& set : instruction_sets) {
    if (features.include(set.features)) best = set.name;
  }
  return best;
}

std::optional<Features> features_of(std::string_view instruction_set) {
  for (const InstructionSet& set : instruction_sets) {
    if (set.name == instruction_set) return set.features;
  }
  return std::nullopt;
}

}  // namespace internvl
