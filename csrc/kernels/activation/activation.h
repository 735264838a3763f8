#pragma once

#include <cstddef>

#include "kernels/dispatch.h"

namespace internvl {

struct ActivationKernels {
  // out[i] = silu(gate[i]) * up[i], silu(x) = x / (1 + exp(-x)); `out` may be `gate` or `up`.
  void (*silu_multiply)(const float* gate, const float* up, std::size_t n, float* out);
};

const ActivationKernels& activation_kernels(Features features);

}  // namespace internvl
