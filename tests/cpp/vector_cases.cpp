#include "vector_cases.h"

#include "kernels/activation/gelu.h"
#include "kernels/vector/float/vector.h"

namespace internvl::INTERNVL_ISA {
namespace {

template <class T>
void load_all(const T* x, float* out) {
  store(out, load(x));
}

template <class T>
void load_part(const T* x, std::size_t count, float* out) {
  store(out, load(x, count));
}

void exp_of(const float* x, float* out) { store(out, exp(load(x))); }
void gelu_of(const float* x, float* out) { store(out, gelu(load(x))); }
void copy_part(const float* x, std::size_t count, float* out) { store(out, load(x, count), count); }
float sum_of(const float* x) { return reduce_add(load(x)); }
float greatest_of(const float* x) { return reduce_max(load(x)); }
void four_sums_of(const float* x, float* sums) {
  reduce_add4(load(x), load(x + lanes), load(x + 2 * lanes), load(x + 3 * lanes), sums);
}

}  // namespace

const VectorCases& vector_cases() {
  static constexpr VectorCases cases{exp_of,
                                     gelu_of,
                                     copy_part,
                                     load_all<Float16>,
                                     load_all<BFloat16>,
                                     load_all<std::int8_t>,
                                     load_part<Float16>,
                                     load_part<std::int8_t>,
                                     sum_of,
                                     greatest_of,
                                     four_sums_of};
  return cases;
}

}  // namespace internvl::INTERNVL_ISA
