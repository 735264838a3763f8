// What the processor can do beyond its baseline, and which of it kernels may use.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string_view>
#include <vector>

namespace internvl {

enum class Feature : std::uint8_t {
  avx2,         // and FMA and F16C
  avx_vnni,     // dot products of bytes in 256 bits (VEX)
  avx512,       // F, BW, VL, DQ and VNNI
  avx512_bf16,  // dot products of bf16
  amx_int8,     // products of matrices of bytes in tiles (runtime/tile_unit.h)
  amx_bf16,     // the same of bf16
  neon,         // what every 64-bit Arm has
  dotprod,      // dot products of bytes
  i8mm,         // products of matrices of bytes and of bf16: Armv8.6
};

class Features {
 public:
  constexpr Features() = default;
  constexpr Features(std::initializer_list<Feature> features) {
    for (const Feature feature : features) bits_ |= bit(feature);
  }

  constexpr bool has(Feature feature) const { return (bits_ & bit(feature)) != 0; }
  constexpr bool include(Features others) const { return (bits_ & others.bits_) == others.bits_; }
  constexpr void add(Feature feature) { bits_ |= bit(feature); }
  friend constexpr bool operator==(Features, Features) = default;

 private:
  static constexpr std::uint32_t bit(Feature feature) { return 1U << static_cast<unsigned>(feature); }

  std::uint32_t bits_ = 0;
};

// The environment variable that forces an instruction set, one of available_instruction_sets(): kernels then
// use no other features.
inline constexpr const char* instruction_set_variable = "INTERNVL_RT_ISA";

// What kernels may use: everything that the processor has, unless the environment says otherwise. Decided at
// the first call. Throws DeviceError if the environment names a set that is not available.
Features features();

// An instruction set is a name for features that a build has kernels for; cmake/InstructionSets.cmake lists
// them.
//
// The sets that this build has kernels for and this processor can run, the best last.
std::vector<std::string_view> available_instruction_sets();
// The best set whose features are among these.
std::string_view instruction_set(Features features);
// The features of a set of this build; none for another name.
std::optional<Features> features_of(std::string_view instruction_set);

// Whether a processor with these features multiplies bf16 faster than fp32.
constexpr bool multiplies_bfloat16(Features features) {
  return features.has(Feature::avx512_bf16) || features.has(Feature::i8mm);
}

}  // namespace internvl
