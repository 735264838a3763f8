// Which instruction set the kernels use: the best that this processor has, or the one that the environment
// names.
#pragma once

#include <span>
#include <string_view>

namespace internvl {

//   avx2           AVX2, FMA and F16C
//   avx512         and AVX-512 F, BW, VL, DQ and VNNI
//   avx512_bf16    and dot products of bf16
//   neon           what every 64-bit Arm has
//   neon_dotprod   and its dot products of bytes
//   neon_i8mm      and its products of matrices of bytes (i8mm) and of bf16: Armv8.6
enum class InstructionSet { portable, avx2, avx512, avx512_bf16, neon, neon_dotprod, neon_i8mm };

// The environment variable that forces an instruction set; its value is one of the names below.
inline constexpr const char* instruction_set_variable = "INTERNVL_RT_ISA";

// Whether the processor multiplies bf16 faster than fp32.
constexpr bool multiplies_bfloat16(InstructionSet set) {
  return set == InstructionSet::avx512_bf16 || set == InstructionSet::neon_i8mm;
}

std::string_view name_of(InstructionSet set);

// The sets that this build has kernels for and this processor can run, the best last.
std::span<const InstructionSet> available_instruction_sets();

// Decided at the first call. Throws DeviceError if the environment names a set that is not available.
InstructionSet instruction_set();

}  // namespace internvl
