// Exact integer arithmetic in vectors, under one interface for every instruction set: dot products of int8
// activations with int8 and int4 weights, and the way from fp32 to int8.
//
//   Int32Vector            sum_lanes sums; zero_sums(), load_sums(p), store_sums(p, v), sum_of_lanes(v)
//   Int8Vector             four int8 for each of those lanes; load_int8(p), load_int8(p, remaining)
//   broadcast_four(p)      the same four int8 in every lane
//   Int8Weights, int8_weights(v)    weights of -128 to 127 as dot() wants them
//   dot(sum, weights, x)   adds to every lane its four products, x being -127 to 127. Where the processor
//                          multiplies unsigned by signed bytes alone, weights are taken as w +
//                          int8_weight_offset: the sum begins with what takes that away
//                          (QuantisedRows::starts)
//   NibbleSums, dot_nibbles(sum, weights, x), total(sum, offset)
//                          as above for weights of 0 to 15, eight steps at most
//   Int4Columns            32 int4 elements of eight rows of weights; load_int4_columns(p, row_bytes)
//   dot(columns, x, offset)   eight sums as fp32: their products, int4 taken as w + int4_weight_offset, and
//                          offset
//   Int4ColumnWords, load_int4_column_words(p, row_bytes)   the same, in the form that many rows of x meet
//   faster expand_int4(p, out)    32 elements, + int4_weight_offset: the sixteen even ones, then the odd ones
//   store_words_transposed(rows, stride, out, out_stride)   the 32-bit words of eight rows of 32 bytes
//   store_rounded(out, v)  32 fp32 as int8, to the nearest, ties to even; store_rounded_split(out, v): the
//   even
//                          ones, then the odd ones
//   PanelWeights           what a GEMM makes of int8 weights, panel_element_bytes for each: four bytes a lane
//   store_panel(rows, stride, out, out_stride)   eight rows of 32 int8 into a panel, whose rows of lanes lie
//                          out_stride bytes apart; load_panel(p), dot(sum, panel_weights, x)
//   panel_inputs(x, rows, depth, wide, wide_stride)   rows of x with elements as wide, which are put into
//   `wide`
//                          if they are wider than bytes; read up to a multiple of 16 elements
//   ColumnFloats           sum_lanes of fp32, lane for lane beside an Int32Vector
//
// No sum overflows: at most most_integer_columns products of at most 255 * 127 are added up.
//
// Included by kernel sources only; everything lies in namespace internvl::INTERNVL_ISA.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/vector/float_vector.h"

namespace internvl::INTERNVL_ISA {

// Rows of x as a panel meets them, `stride` bytes apart.
struct PanelInputs {
  const std::int8_t* values;
  std::size_t stride;
};

// int4 weights are computed with as 0 to 15: this much is added.
constexpr int int4_weight_offset = 8;
// Elements that share a scale.
constexpr std::size_t int4_block = 32;

}  // namespace internvl::INTERNVL_ISA

#if defined(INTERNVL_ISA_avx512)
#include "kernels/vector/integer_vector_avx512.h"
#elif defined(INTERNVL_ISA_avx2)
#include "kernels/vector/integer_vector_avx2.h"
#elif defined(INTERNVL_ISA_neon) || defined(INTERNVL_ISA_neon_dotprod)
#include "kernels/vector/integer_vector_neon.h"
#else
#include "kernels/vector/integer_vector_portable.h"
#endif
