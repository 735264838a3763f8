// SiLU, x / (1 + exp(-x)) (Elfwing et al. 2017). Included by kernel sources only.
#pragma once

#include "kernels/vector/float/vector.h"

namespace internvl::INTERNVL_ISA {

inline FloatVector silu(FloatVector x) { return x / (broadcast(1.0F) + exp(broadcast(0.0F) - x)); }

}  // namespace internvl::INTERNVL_ISA
