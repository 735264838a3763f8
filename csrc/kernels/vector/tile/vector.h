// The tile unit of AMX: eight tiles of up to 16 rows of 64 bytes, and products of the matrices in them.
//
//   load_tile<T>(p, stride), store_tile<T>(p, stride)    tile T, rows `stride` bytes apart
//   zero_tile<T>()
//   Int8Products::add<C, A, B>()       C [16, 16] int32 += A [16, 64] . B, all of int8: exact
//   BFloat16Products::add<C, A, B>()   C [16, 16] fp32 += A [16, 32] . B
//   TilesAs(shapes)                    gives the tiles other shapes while it lives, and then those of
//                                      whole_tiles again; whoever uses such tiles says so: load_tile<T,
//                                      shape>
//
// B holds words: four neighbouring int8 of k, or two bf16, of each of 16 columns beside each other, and the
// words that follow in the next row.
//
// Of bf16, the sums of the even and of the odd elements are taken apart, by fused multiply-adds in the order
// of k; both are added up, and then to C. Subnormal numbers count as 0. A and B may change their roles: C
// transposed has the same bits.
//
// Tiles have shapes only in a TileRegion (runtime/tile_unit.h), which every parallel region is. The compiler
// knows nothing of tiles: instructions are inline assembly, in the order in which they stand.
//
// Included by kernel sources only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/tile_shapes.h"
#if defined(INTERNVL_EMULATED_AMX)
#include "runtime/emulated_tiles.h"
#endif

namespace internvl::INTERNVL_ISA {

#if defined(INTERNVL_EMULATED_AMX)

template <int T, TileShape Shape = whole_tile>
inline void load_tile(const void* p, std::size_t stride) {
  emulated_tiles().expect(T, Shape.rows, Shape.row_bytes);
  emulated_tiles().load(T, p, stride);
}
template <int T, TileShape Shape = whole_tile>
inline void store_tile(void* p, std::size_t stride) {
  emulated_tiles().expect(T, Shape.rows, Shape.row_bytes);
  emulated_tiles().store(T, p, stride);
}
template <int T, TileShape Shape = whole_tile>
inline void zero_tile() {
  emulated_tiles().expect(T, Shape.rows, Shape.row_bytes);
  emulated_tiles().zero(T);
}
struct Int8Products {
  template <int C, int A, int B>
  static void add() {
    emulated_tiles().add_int8_products(C, A, B);
  }
};
struct BFloat16Products {
  template <int C, int A, int B>
  static void add() {
    emulated_tiles().add_bfloat16_products(C, A, B);
  }
};
inline void load_tile_shapes(const TileShapes& shapes) { emulated_tiles().configure(shapes); }

#else

template <int T, TileShape = whole_tile>
[[gnu::always_inline]] inline void load_tile(const void* p, std::size_t stride) {
  asm volatile("tileloadd (%[p],%[stride],1), %%tmm%c[t]"
               :
               : [p] "r"(p), [stride] "r"(stride), [t] "i"(T)
               : "memory");
}
template <int T, TileShape = whole_tile>
[[gnu::always_inline]] inline void store_tile(void* p, std::size_t stride) {
  asm volatile("tilestored %%tmm%c[t], (%[p],%[stride],1)"
               :
               : [p] "r"(p), [stride] "r"(stride), [t] "i"(T)
               : "memory");
}
template <int T, TileShape = whole_tile>
[[gnu::always_inline]] inline void zero_tile() {
  asm volatile("tilezero %%tmm%c[t]" : : [t] "i"(T));
}
struct Int8Products {
  template <int C, int A, int B>
  [[gnu::always_inline]] static void add() {
    asm volatile("tdpbssd %%tmm%c[b], %%tmm%c[a], %%tmm%c[c]" : : [a] "i"(A), [b] "i"(B), [c] "i"(C));
  }
};
struct BFloat16Products {
  template <int C, int A, int B>
  [[gnu::always_inline]] static void add() {
    asm volatile("tdpbf16ps %%tmm%c[b], %%tmm%c[a], %%tmm%c[c]" : : [a] "i"(A), [b] "i"(B), [c] "i"(C));
  }
};
inline void load_tile_shapes(const TileShapes& shapes) {
  asm volatile("ldtilecfg %[shapes]" : : [shapes] "m"(shapes));
}

#endif

class TilesAs {
 public:
  explicit TilesAs(const TileShapes& shapes) { load_tile_shapes(shapes); }
  ~TilesAs() { load_tile_shapes(whole_tiles); }
  TilesAs(const TilesAs&) = delete;
  TilesAs& operator=(const TilesAs&) = delete;
  TilesAs(TilesAs&&) = delete;
  TilesAs& operator=(TilesAs&&) = delete;
};

}  // namespace internvl::INTERNVL_ISA
