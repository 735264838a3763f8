// The vector layer of the pixel kernels, for the instruction set that is being compiled:
//
//   Bytes             32 bytes; load_bytes(), store_bytes()
//   WeightedSum       32 weighted sums of bytes; add() takes two rows and their two weights
//   transpose_in           the transpose of 32 rows x 16 bytes
//   transpose_out          the transpose of 16 columns x 32 bytes
//   normalise_pixels  normalises as many pixels as suit the registers, and returns how many
#pragma once

#if defined(INTERNVL_AVX2)
#include "kernels/vector/pixel/avx2.h"
#elif defined(INTERNVL_NEON)
#include "kernels/vector/pixel/neon.h"
#else
#include "kernels/vector/pixel/portable.h"
#endif
