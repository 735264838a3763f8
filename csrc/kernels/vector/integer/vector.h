// Exact integer arithmetic in vectors, under one interface for every instruction set: dot products of int8
// activations with int8 and int4 weights, and the way from fp32 to int8.
//
//   Int32Vector            sum_lanes sums; broadcast_sum(x), load_sums(p), store_sums(p, v)
//   Int8Vector             four int8 for each of those lanes; load_int8(p)
//   broadcast_four(p)      the same four int8 in every lane
//   Int8Weights, int8_weights(v)    weights of -128 to 127 as dot() wants them
//   dot(sum, weights, x)   adds to every lane its four products, x being -127 to 127. Where the processor
//                          multiplies unsigned by signed bytes alone, weights are taken as w +
//                          int8_weight_offset: the sum begins with what takes that away
//                          (QuantisedRows::starts)
//   Int8Columns            32 int8 elements of eight rows of weights; load_int8_columns(p, row_bytes)
//   Int4Columns            the same of int4, the even ones before the odd ones; load_int4_columns(p,
//   row_bytes) dot(columns, x, offset)   eight sums as fp32: their products, weights taken as w +
//   int8_weight_offset or w
//                          + int4_weight_offset (8 where they must not be negative, else 0), and offset
//   Int8ColumnWords, load_int8_column_words(p, row_bytes), and for int4   the same of integer_word_columns
//   rows of
//                          weights, 8 or 16, in the form that many rows of x meet faster; dot() gives their
//                          sums as WordFloats
//   WordFloats             fp32 for each of those: broadcast_word_floats(x), word_floats(eights) of
//                          FloatVectors, store_word_floats(p, v), fma, *
//   store_rounded(out, v)  32 fp32 as int8, to the nearest, ties to even; store_rounded_split(out, v) puts
//                          the even ones first, then the odd ones
//
// A GEMM keeps a panel of weights in the order in which they are multiplied: words of word_bytes bytes, those
// of all columns beside each other. A panel meets row_group rows of x at once: one, or two where the
// processor multiplies matrices (integer_panel_pairs.h).
//
//   GroupSums              sums of a group of rows with sum_lanes columns: broadcast_sums(x),
//                          load_sums(p, stride), store_sums(p, stride, v), rows `stride` elements apart
//   GroupWord, broadcast_word(p)    a word of each row of a group, for every column
//   PanelWeights           words of int8 weights, panel_element_bytes for each: load_panel(p),
//                          dot(sum, panel_weights, word)
//   store_panel(rows, stride, out, out_stride)   eight rows of 32 int8 into a panel, whose words' rows lie
//                          out_stride bytes apart
//   panel_inputs(x, rows, depth, copy, copy_stride)   words of x's groups as they meet a panel of int8
//                          weights, in `copy` if not where they are; read up to a multiple of 16 elements
//   NibbleWeights, load_nibbles(p), nibble_inputs(...)    as above for int4 weights
//   store_nibbles(rows, row_bytes, out, out_stride)   nibble_rows rows of 32 int4 into a panel, as they are
//                          multiplied: + int4_weight_offset, the sixteen even ones before the odd ones
//   NibbleSums, begin_nibble_sums(offset), dot_nibbles(sum, nibble_weights, word), total(sum, offset)
//                          sums of one block of int4 weights, + offset as GroupSums
//   GroupFloats            fp32, lane for lane beside GroupSums: zero_floats(), load_floats(p, stride),
//                          store_floats(p, stride, v), to_float(sums), fma, *
//   column_floats(p)       a value for each column; row_floats(p, step): for each row, `step` elements apart
//
// No sum overflows: at most most_integer_columns products of at most 255 * 127 are added up.
//
// Included by kernel sources only; everything lies in namespace internvl::INTERNVL_ISA.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/vector/float/vector.h"

namespace internvl::INTERNVL_ISA {

// Groups of rows of x as a panel meets them, `stride` bytes apart.
struct PanelInputs {
  const std::int8_t* values;
  std::size_t stride;
};

}  // namespace internvl::INTERNVL_ISA

#if defined(INTERNVL_AVX512)
#include "kernels/vector/integer/avx512.h"
#elif defined(INTERNVL_AVX_VNNI)
#include "kernels/vector/integer/avx_vnni.h"
#elif defined(INTERNVL_AVX2)
#include "kernels/vector/integer/avx2.h"
#elif defined(INTERNVL_NEON)
#include "kernels/vector/integer/neon.h"
#else
#include "kernels/vector/integer/portable.h"
#endif
