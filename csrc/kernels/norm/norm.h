#pragma once

#include <cstddef>

#include "kernels/dispatch.h"

namespace internvl {

struct NormKernels {
  // out[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i] for one row of n elements; `out` may be `x`.
  void (*rms_norm)(const float* x, const float* weight, std::size_t n, float eps, float* out);
  // out[i] = (x[i] - mean(x)) / sqrt(variance(x) + eps) * weight[i] + bias[i] for one row of n elements;
  // `out` may be `x`. The variance is that of the differences from the mean, in a pass of its own: a large
  // mean costs it nothing.
  void (*layer_norm)(const float* x, const float* weight, const float* bias, std::size_t n, float eps,
                     float* out);
};

const NormKernels& norm_kernels(Features features);

}  // namespace internvl
