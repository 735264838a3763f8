#pragma once

#include <cstddef>

#include "kernels/dispatch.h"

namespace internvl {

struct RopeKernels {
  // Rotates `count` heads of `head_dim` elements, one after the other, by the angles of one position.
  // Rotate-half: out[j] = x[j] cos[j] - x[j + d/2] sin[j], out[j + d/2] = x[j + d/2] cos[j] + x[j] sin[j];
  // cosines and sines [head_dim / 2].
  void (*rotate)(float* heads, std::size_t count, std::size_t head_dim, const float* cosines,
                 const float* sines);
};

const RopeKernels& rope_kernels(Features features);

}  // namespace internvl
