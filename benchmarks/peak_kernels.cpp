#include "peak_kernels.h"

#include <utility>

#include "kernels/vector/integer_vector.h"

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

// Chain by chain in the source, and few: else GCC 12 keeps sums in memory.
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
  ((*sink += sum_of_lanes(sums[Chain]) & 1), ...);
  return 2.0 * sizeof...(Chain) * (4 / panel_element_bytes) * sum_lanes * static_cast<double>(rounds);
}
double int8(std::size_t rounds, std::int32_t* sink) {
  return int8(rounds, sink, std::make_index_sequence<6>());
}

void read(const std::byte* data, std::size_t bytes, std::int32_t* sink) {
  const auto* p = reinterpret_cast<const std::int8_t*>(data);
  Int32Vector sums[4];
  for (Int32Vector& sum : sums) sum = zero_sums();
  const Int8Vector ones = broadcast_four(reinterpret_cast<const std::int8_t*>("\1\1\1\1"));
  constexpr std::size_t step = 4 * sum_lanes;
  for (std::size_t i = 0; i < bytes; i += 4 * step) {
    for (std::size_t j = 0; j < 4; ++j)
      sums[j] = dot(sums[j], int8_weights(load_int8(p + i + j * step)), ones);
  }
  for (const Int32Vector& sum : sums) *sink += sum_of_lanes(sum) & 1;
}

}  // namespace

const PeakKernels& peak_kernels() {
  static constexpr PeakKernels kernels{fp32, int8, read};
  return kernels;
}

}  // namespace internvl::INTERNVL_ISA
