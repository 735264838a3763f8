// The compiler's intrinsics; or, in a test build for machines without AVX-512, AVX-512 as portable code.
#pragma once

#if defined(INTERNVL_EMULATED_AVX512)
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#else
#include <immintrin.h>
#endif
