#include "peak_kernels.h"

#include <utility>

#include "kernels/vector/bfloat16/vector.h"
#include "kernels/vector/integer/vector.h"

namespace internvl::INTERNVL_ISA {
namespace {

constexpr int chains = 10;  // enough to hide an operation's latency, few enough for sixteen registers

double fp32(std::size_t rounds, float* sink) {
  FloatVector sums[chains];
  for (FloatVector& sum : sums) sum = broadcast(*sink);
  FloatVector a = broadcast(*sink + 1.0F);
  FloatVector b = broadcast(*sink * 0.5F);
  for (std::size_t i = 0; i < rounds; ++i) {
    for (FloatVector& sum : sums) sum = fma(sum, a, b);
  }
  for (const FloatVector& sum : sums) *sink += reduce_add(sum);
  return 2.0 * chains * lanes * static_cast<double>(rounds);
}

// Of products whose operands are in registers or, as here, in the first cache. Chain by chain in the source,
// and as few as the registers allow: else GCC 12 keeps sums in memory.
#if defined(INTERNVL_AVX512)
using Chains = std::make_index_sequence<12>;
#else
using Chains = std::make_index_sequence<6>;
#endif

template <std::size_t... Chain>
double bfloat16(std::size_t rounds, float* sink, std::index_sequence<Chain...>) {
  BFloat16 values[2 * pair_lanes];
  for (std::size_t i = 0; i < 2 * pair_lanes; ++i)
    values[i] = {static_cast<std::uint16_t>(*sink > 0 ? 0x3F80 : 0)};
  const PairWords weights = load_words(values);
  PairSums sums[] = {((void)Chain, zero_pair_sums())...};
  for (std::size_t i = 0; i < rounds; ++i) {
    asm volatile("" : "+m"(values));  // or the products would be computed once
    const PairWords x = broadcast_word(values);
    ((sums[Chain] = dot(sums[Chain], weights, x)), ...);
  }
  float total[pair_lanes];
  ((store_pair_sums(total, sums[Chain]), *sink += total[0]), ...);
  return 4.0 * sizeof...(Chain) * pair_lanes * static_cast<double>(rounds);
}
double bfloat16(std::size_t rounds, float* sink) { return bfloat16(rounds, sink, Chains()); }

template <std::size_t... Chain>
double int8(std::size_t rounds, std::int32_t* sink, std::index_sequence<Chain...>) {
  constexpr std::size_t step = 4 * sum_lanes;
  std::int8_t bytes[step * sizeof...(Chain)];
  for (std::size_t i = 0; i < sizeof(bytes); ++i)
    bytes[i] = static_cast<std::int8_t>(*sink + static_cast<int>(i));
  const PanelWeights weights = load_panel(bytes);
  Int32Vector sums[] = {broadcast_sum(static_cast<std::int32_t>(Chain))...};
  for (std::size_t i = 0; i < rounds; ++i) {
    asm volatile("" : "+m"(bytes));  // or the products would be computed once
    ((sums[Chain] = dot(sums[Chain], weights, load_int8(bytes + step * Chain))), ...);
  }
  std::int32_t lanes_of_sum[sum_lanes];
  ((store_sums(lanes_of_sum, sums[Chain]), *sink += lanes_of_sum[0] & 1), ...);
  return 2.0 * sizeof...(Chain) * (4 / panel_element_bytes) * sum_lanes * static_cast<double>(rounds);
}
double int8(std::size_t rounds, std::int32_t* sink) { return int8(rounds, sink, Chains()); }

void read(const std::byte* data, std::size_t bytes, std::int32_t* sink) {
  const auto* p = reinterpret_cast<const float*>(data);
  FloatVector greatest[4];
  for (FloatVector& part : greatest) part = broadcast(0.0F);
  for (std::size_t i = 0; i < bytes / sizeof(float); i += 4 * lanes) {
    for (std::size_t j = 0; j < 4; ++j) greatest[j] = max(greatest[j], load(p + i + j * lanes));
  }
  for (const FloatVector& part : greatest) *sink += reduce_max(part) > 1.0F ? 1 : 0;
}

}  // namespace

const PeakKernels& peak_kernels() {
  static constexpr PeakKernels kernels{fp32, bfloat16, int8, read};
  return kernels;
}

}  // namespace internvl::INTERNVL_ISA
