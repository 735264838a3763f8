#include "runtime/instruction_set.h"

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include <cstdlib>
#include <string>
#include <vector>

#include "runtime/error.h"

namespace internvl {
namespace {

#if defined(__x86_64__)
// The compiler's run time asks CPUID for the instructions and XCR0 whether the system saves their registers.
bool has_avx512() {
#if defined(INTERNVL_EMULATED_AVX512)
  return true;
#else
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni");
#endif
}

bool has_avx512_bf16() {
#if defined(INTERNVL_EMULATED_AVX512)
  return true;
#else
  return __builtin_cpu_supports("avx512bf16");
#endif
}
#endif

std::vector<InstructionSet> detect() {
  std::vector<InstructionSet> sets{InstructionSet::portable};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    sets.push_back(InstructionSet::avx2);
    if (has_avx512()) {
      sets.push_back(InstructionSet::avx512);
      if (has_avx512_bf16()) sets.push_back(InstructionSet::avx512_bf16);
    }
  }
#elif defined(__aarch64__)
  sets.push_back(InstructionSet::neon);
  if ((getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0) {
    sets.push_back(InstructionSet::neon_dotprod);
    constexpr unsigned long matrices = HWCAP2_I8MM | HWCAP2_BF16;
    if ((getauxval(AT_HWCAP2) & matrices) == matrices) sets.push_back(InstructionSet::neon_i8mm);
  }
#endif
  return sets;
}

InstructionSet choose() {
  const std::span<const InstructionSet> sets = available_instruction_sets();
  const char* wanted = std::getenv(instruction_set_variable);
  if (wanted == nullptr || *wanted == '\0') return sets.back();
  std::string names;
  for (const InstructionSet set : sets) {
    if (name_of(set) == wanted) return set;
    names += (names.empty() ? "" : ", ") + std::string(name_of(set));
  }
  throw DeviceError(
      std::string(instruction_set_variable) + "=" + wanted +
      " names an instruction set that this processor or this build does not have; expected one of: " + names +
      ". Unset the variable to use the best one.");
}

}  // namespace

std::string_view name_of(InstructionSet set) {
  switch (set) {
    case InstructionSet::portable:
      return "portable";
    case InstructionSet::avx2:
      return "avx2";
    case InstructionSet::avx512:
      return "avx512";
    case InstructionSet::avx512_bf16:
      return "avx512_bf16";
    case InstructionSet::neon:
      return "neon";
    case InstructionSet::neon_dotprod:
      return "neon_dotprod";
    case InstructionSet::neon_i8mm:
      return "neon_i8mm";
  }
  return "unknown";
}

std::span<const InstructionSet> available_instruction_sets() {
  static const std::vector<InstructionSet> sets = detect();
  return sets;
}

InstructionSet instruction_set() {
  static const InstructionSet set = choose();
  return set;
}

}  // namespace internvl
