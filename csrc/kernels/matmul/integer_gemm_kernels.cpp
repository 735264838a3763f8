#include "kernels/activation/silu.h"
#include "kernels/matmul/finish_row.h"
#include "kernels/matmul/integer_gemm.h"
#include "kernels/matmul/integer_sums.h"
#include "kernels/quantise/quantise_block.h"
#include "kernels/vector/prefetch.h"

#if defined(INTERNVL_AMX_INT8)
#include "kernels/matmul/integer_tile_panel.h"
#endif

namespace internvl::INTERNVL_ISA {
namespace {

constexpr std::size_t columns = integer_panel_columns;
// Rows of W and bytes of each that are unpacked at once.
constexpr std::size_t unpack_rows = 8;
constexpr std::size_t unpack_bytes = 32;

// Columns whose words lie beside each other in a panel, and elements up to which it is filled.
#if defined(INTERNVL_AMX_INT8)
constexpr std::size_t columns_beside = tile_side;
constexpr std::size_t panel_step = tile_panel_step;
#else
constexpr std::size_t columns_beside = columns;
constexpr std::size_t panel_step = unpack_bytes;
#endif
static_assert(integer_panel_depth % panel_step == 0 && panel_step % unpack_bytes == 0);

static_assert(columns % (sum_lanes * row_tile_vectors) == 0 &&
              columns % (sum_lanes * block_tile_vectors) == 0);
static_assert(row_piece_step % row_tile_rows == 0 && row_piece_step % block_tile_rows == 0);
static_assert(columns % unpack_rows == 0 && columns_beside % nibble_rows == 0 &&
              panel_element_bytes <= most_panel_element_bytes);
static_assert(integer_panel_depth % (8 * int4_block) == 0 && unpack_bytes == int4_block);
static_assert(row_group <= most_row_group && integer_gemm_rows % row_group == 0);
static_assert(row_tile_rows % row_group == 0 && block_tile_rows % row_group == 0);
// A group's sums begin with one number.
static_assert(row_group == 1 || (int8_weight_offset == 0 && int4_weight_offset == 0));

std::size_t smaller(std::size_t a, std::size_t b) { return a < b ? a : b; }

// Where the words of a column begin with element i, in a panel of so many elements.
std::int8_t* place_in(std::int8_t* panel, std::size_t i, std::size_t column, std::size_t depth,
                      std::size_t element_bytes) {
  const std::size_t filled = (depth + panel_step - 1) / panel_step * panel_step;
  return panel + element_bytes * (column / columns_beside * columns_beside * filled + i * columns_beside) +
         word_bytes * (column % columns_beside);
}

// Rows [n, n + count) of W in columns [column, column + count) of a panel. `column` is a multiple of
// unpack_rows and nibble_rows.
struct PanelPart {
  std::size_t n;
  std::size_t count;
  std::size_t column;
};

// Elements [k, k + depth) of those rows; what stands in the panel's other columns is never read as a result.
// Its other elements, up to multiples of unpack_bytes, are 0.
void unpack_int8(const Int8Rows& w, PanelPart part, std::size_t k, std::size_t depth, std::int8_t* panel) {
  const auto [n, count, column] = part;
  for (std::size_t c = 0; c < count; c += unpack_rows) {
    const auto* next = reinterpret_cast<const char*>(w.values + (n + c + unpack_rows) * w.columns + k);
    RowsAhead ahead{next, w.columns, depth};
    for (std::size_t i = 0; i < depth; i += unpack_bytes) {
      ahead.prefetch(unpack_rows * unpack_bytes);
      const std::int8_t* from = w.values + (n + c) * w.columns + k + i;
      std::int8_t* to = place_in(panel, i, column + c, depth, panel_element_bytes);
      if (c + unpack_rows <= count && i + unpack_bytes <= depth) {
        store_panel(from, w.columns, to, word_bytes * columns_beside);
        continue;
      }
      std::int8_t edge[unpack_rows][unpack_bytes] = {};
      for (std::size_t row = 0; row < smaller(unpack_rows, count - c); ++row) {
        for (std::size_t j = 0; j < smaller(unpack_bytes, depth - i); ++j)
          edge[row][j] = from[row * w.columns + j];
      }
      store_panel(edge[0], unpack_bytes, to, word_bytes * columns_beside);
    }
  }
}

void unpack_int4(const Int4Rows& w, PanelPart part, std::size_t k, std::size_t depth, std::int8_t* panel,
                 float* panel_scales) {
  const auto [n, count, column] = part;
  constexpr std::size_t block_bytes = int4_block / 2;
  const std::size_t blocks = depth / int4_block;
  for (std::size_t c = 0; c < count; c += nibble_rows) {
    const std::uint8_t* const first = w.row(n + c) + k / 2;
    const std::size_t row_bytes = w.columns / 2;
    RowsAhead ahead{reinterpret_cast<const char*>(first + nibble_rows * row_bytes), row_bytes, depth / 2};
    for (std::size_t b = 0; b < blocks; ++b) {
      ahead.prefetch(nibble_rows * block_bytes);
      const std::uint8_t* const from = first + b * block_bytes;
      std::int8_t* const to = place_in(panel, b * int4_block, column + c, depth, 1);
      if (c + nibble_rows <= count) {
        store_nibbles(from, row_bytes, to, word_bytes * columns_beside);
        continue;
      }
      std::uint8_t edge[nibble_rows][block_bytes] = {};
      for (std::size_t row = 0; row < count - c; ++row) {
        for (std::size_t i = 0; i < block_bytes; ++i) edge[row][i] = from[row * row_bytes + i];
      }
      store_nibbles(edge[0], block_bytes, to, word_bytes * columns_beside);
    }
  }
  const std::size_t row_scales = w.columns / int4_block;
  for (std::size_t c = 0; c < count; c += unpack_rows) {
    const std::size_t rows = smaller(unpack_rows, count - c);
    for (std::size_t begin = 0; begin < blocks; begin += 8) {
      // What is left behind the last whole eight: the last eight again, for loading fewer takes long.
      const std::size_t b = begin + 8 > blocks && blocks >= 8 ? blocks - 8 : begin;
      const std::size_t known = smaller(8, blocks - b);
      const Float16* from = w.scales + (n + c) * row_scales + k / int4_block + b;
      FloatVector scales[8];
      if (rows == unpack_rows) {
        load_block_scales(from, row_scales, known, scales);
      } else {
        for (std::size_t row = 0; row < 8; ++row) {
          scales[row] = row < rows ? load(from + row * row_scales, known) : broadcast(0.0F);
        }
        transpose(scales);
      }
      for (std::size_t i = 0; i < known; ++i) store(panel_scales + (b + i) * columns + column + c, scales[i]);
    }
  }
}

// x and out begin at the tile's first row, panel and out at its first column.
struct Tile {
  QuantisedRows x;
  std::size_t k;  // where the panel begins in a row of x
  std::size_t depth;
  const std::int8_t* panel;
  const float* scales;
  // The part of x that meets the panel, in words like the panel's.
  PanelInputs inputs;
  bool odd;  // the last group has one row
};

// Where the sums of group g with vector v of columns lie from a tile's first.
constexpr std::size_t place(int g, int v) {
  return static_cast<std::size_t>(g) * row_group * columns + static_cast<std::size_t>(v) * sum_lanes;
}

// int8 weights and rows with one scale: a sum of integers runs through all panels.
struct WholeRows {
  using Sum = std::int32_t;
  static constexpr bool in_blocks = false;
  static constexpr int tile_rows = row_tile_rows;
  static constexpr int tile_vectors = row_tile_vectors;
  static constexpr std::size_t element_bytes = panel_element_bytes;

  static PanelInputs inputs(PanelInputs x, std::size_t rows, std::size_t depth, std::int8_t* copy,
                            std::size_t copy_stride) {
    return panel_inputs(x, rows, depth, copy, copy_stride);
  }

  template <int Groups, int Vectors>
  static void compute(const Tile& tile, std::int32_t* out) {
    GroupSums sum[Groups][Vectors];
    for (int g = 0; g < Groups; ++g) {
      for (int v = 0; v < Vectors; ++v) {
        sum[g][v] = tile.k == 0 ? broadcast_sums(tile.x.starts[static_cast<std::size_t>(g) * row_group])
                                : load_sums(out + place(g, v), columns);
      }
    }
    const std::size_t bytes = element_bytes * tile.depth;
    for (std::size_t i = 0; i < bytes; i += word_bytes) {
      PanelWeights weights[Vectors];
      for (int v = 0; v < Vectors; ++v) {
        weights[v] =
            load_panel(tile.panel + i * columns + word_bytes * sum_lanes * static_cast<std::size_t>(v));
      }
      for (int g = 0; g < Groups; ++g) {
        const GroupWord word = broadcast_word(
            tile.inputs.values + static_cast<std::size_t>(g) * tile.inputs.stride + row_group * i);
        for (int v = 0; v < Vectors; ++v) sum[g][v] = dot(sum[g][v], weights[v], word);
      }
    }
    for (int g = 0; g < Groups; ++g) {
      for (int v = 0; v < Vectors; ++v) store_sums(out + place(g, v), columns, sum[g][v]);
    }
  }
};

// Rows in blocks: what the kinds of weights differ in.
struct Int8Blocks {
  using Sums = GroupSums;
  using Weights = PanelWeights;
  static constexpr std::size_t element_bytes = panel_element_bytes;

  static PanelInputs inputs(PanelInputs x, std::size_t rows, std::size_t depth, std::int8_t* copy,
                            std::size_t copy_stride) {
    return panel_inputs(x, rows, depth, copy, copy_stride);
  }
  static Sums begin(std::int32_t start) { return broadcast_sums(start); }
  static Weights load(const std::int8_t* p) { return load_panel(p); }
  [[gnu::always_inline]] static Sums add(Sums sum, Weights w, GroupWord x) { return dot(sum, w, x); }
  static GroupSums total_of(Sums sum, std::int32_t) { return sum; }
  // The scale of a sum; the weights' own scales meet the total.
  static GroupFloats scale(GroupFloats rows, const float*) { return rows; }
};

struct Int4Blocks {
  using Sums = NibbleSums;
  using Weights = NibbleWeights;
  static constexpr std::size_t element_bytes = 1;

  static PanelInputs inputs(PanelInputs x, std::size_t rows, std::size_t depth, std::int8_t* copy,
                            std::size_t copy_stride) {
    return nibble_inputs(x, rows, depth, copy, copy_stride);
  }
  static Sums begin(std::int32_t start) { return begin_nibble_sums(start); }
  static Weights load(const std::int8_t* p) { return load_nibbles(p); }
  [[gnu::always_inline]] static Sums add(Sums sum, Weights w, GroupWord x) { return dot_nibbles(sum, w, x); }
  static GroupSums total_of(Sums sum, std::int32_t start) { return total(sum, start); }
  static GroupFloats scale(GroupFloats rows, const float* w) { return rows * column_floats(w); }
};

template <class BlockKind>
struct BlockRows {
  using Blocks = BlockKind;
  using Sum = float;
  static constexpr bool in_blocks = true;
  static constexpr int tile_rows = block_tile_rows;
  static constexpr int tile_vectors = block_tile_vectors;
  static constexpr std::size_t element_bytes = Blocks::element_bytes;

  static PanelInputs inputs(PanelInputs x, std::size_t rows, std::size_t depth, std::int8_t* copy,
                            std::size_t copy_stride) {
    return Blocks::inputs(x, rows, depth, copy, copy_stride);
  }

  template <int Groups, int Vectors>
  static void compute(const Tile& tile, float* out) {
    GroupFloats totals[Groups][Vectors];
    INTERNVL_UNROLL_GROUPS
    for (int g = 0; g < Groups; ++g) {
      for (int v = 0; v < Vectors; ++v)
        totals[g][v] = tile.k == 0 ? zero_floats() : load_floats(out + place(g, v), columns);
    }
    const std::size_t stride = tile.inputs.stride;
    const std::size_t first = tile.k / int4_block;
    constexpr std::size_t block_bytes = element_bytes * int4_block;
    for (std::size_t b = 0; b < tile.depth / int4_block; ++b) {
      const std::int8_t* panel = tile.panel + b * block_bytes * columns;
      const std::int8_t* x = tile.inputs.values + row_group * b * block_bytes;
      typename Blocks::Sums sum[Groups][Vectors];
      const auto group = [&](int g) {
        return static_cast<std::size_t>(g) * row_group * tile.x.groups + first + b;
      };
      INTERNVL_UNROLL_GROUPS
      for (int g = 0; g < Groups; ++g) {
        for (int v = 0; v < Vectors; ++v) sum[g][v] = Blocks::begin(tile.x.starts[group(g)]);
      }
#pragma GCC unroll 8
      for (std::size_t i = 0; i < block_bytes; i += word_bytes) {
        typename Blocks::Weights weights[Vectors];
        for (int v = 0; v < Vectors; ++v) {
          weights[v] =
              Blocks::load(panel + i * columns + word_bytes * sum_lanes * static_cast<std::size_t>(v));
        }
        for (int g = 0; g < Groups; ++g) {
          const GroupWord word = broadcast_word(x + static_cast<std::size_t>(g) * stride + row_group * i);
          for (int v = 0; v < Vectors; ++v) sum[g][v] = Blocks::add(sum[g][v], weights[v], word);
        }
      }
      INTERNVL_UNROLL_GROUPS
      for (int g = 0; g < Groups; ++g) {
        const std::int32_t start = tile.x.starts[group(g)];
        const std::size_t next_row = g + 1 == Groups && tile.odd ? 0 : tile.x.groups;
        const GroupFloats rows = row_floats(tile.x.scales + group(g), next_row);
        for (int v = 0; v < Vectors; ++v) {
          const GroupFloats scale =
              Blocks::scale(rows, tile.scales + b * columns + static_cast<std::size_t>(v) * sum_lanes);
          totals[g][v] = fma(to_float(Blocks::total_of(sum[g][v], start)), scale, totals[g][v]);
        }
      }
    }
    INTERNVL_UNROLL_GROUPS
    for (int g = 0; g < Groups; ++g) {
      for (int v = 0; v < Vectors; ++v) store_floats(out + place(g, v), columns, totals[g][v]);
    }
  }
};

// `groups` <= Groups groups of rows past `count` columns of the panel.
template <int Groups, class Kind>
void multiply_groups(std::size_t groups, Tile tile, std::size_t count, typename Kind::Sum* out) {
  if constexpr (Groups > 1) {
    if (groups < static_cast<std::size_t>(Groups))
      return multiply_groups<Groups - 1, Kind>(groups, tile, count, out);
  }
  constexpr int vectors = Kind::tile_vectors;
  constexpr std::size_t wide = sum_lanes * vectors;
  const std::int8_t* panel = tile.panel;
  const float* scales = tile.scales;
  std::size_t c = 0;
  for (; c + wide <= count; c += wide) {
    tile.panel = panel + word_bytes * c;
    tile.scales = scales + c;
    Kind::template compute<Groups, vectors>(tile, out + c);
  }
  for (; c < count; c += sum_lanes) {
    tile.panel = panel + word_bytes * c;
    tile.scales = scales + c;
    Kind::template compute<Groups, 1>(tile, out + c);
  }
}

// The weights of the panel that comes next, in the order of their addresses, asked into the second cache
// while rows of x pass this one: a part for every tile of rows.
class WeightsAhead {
 public:
  explicit WeightsAhead(std::size_t rows) : rows_(rows) {}

  // `count` rows of W.
  void add(const RowsAhead& rows, std::size_t count) {
    parts_[used_++] = {rows, (rows.part_bytes + line - 1) / line * count};
  }
  // Of what is left, the share of `rows` of the rows of x that are still to come.
  void ask(std::size_t rows) {
    for (Part& part : parts_) {
      const std::size_t lines = rows < rows_ ? (part.lines * rows + rows_ - 1) / rows_ : part.lines;
      for (std::size_t i = 0; i < lines; ++i) part.ahead.prefetch<Cache::second>(line);
      part.lines -= lines;
    }
    rows_ -= smaller(rows, rows_);
  }

 private:
  static constexpr std::size_t line = 64;
  struct Part {
    RowsAhead ahead;
    std::size_t lines;
  };

  std::size_t rows_;
  std::size_t used_ = 0;
  Part parts_[2] = {};
};

// Sums of `m` rows of x with the panel's `count` columns.
template <class Kind>
void multiply_panel(std::size_t m, const Tile& all, std::size_t count, typename Kind::Sum* out,
                    WeightsAhead& ahead) {
#if defined(INTERNVL_AMX_INT8)
  ahead.ask(m);
  const TilePanelJob job{all.x, m, all.k, all.depth, all.panel, all.scales, count};
  if constexpr (Kind::in_blocks) {
    multiply_tile_blocks<typename Kind::Blocks>(job, out);
  } else {
    multiply_tile_panel(job, out);
  }
#else
  constexpr std::size_t most = Kind::tile_rows;
  constexpr bool copied = row_group > 1 || Kind::element_bytes > 1;
  constexpr std::size_t copy_stride = row_group * Kind::element_bytes * integer_panel_depth;
  std::int8_t copy[copied ? most / row_group * copy_stride : 1];
  for (std::size_t r = 0; r < m; r += most) {
    const std::size_t rows = smaller(most, m - r);
    Tile tile = all;
    tile.x = all.x.from(r);
    tile.odd = rows % row_group != 0;
    ahead.ask(rows);
    const PanelInputs inputs{tile.x.values + tile.k, tile.x.stride};
    tile.inputs = Kind::inputs(inputs, rows, tile.depth, copy, copy_stride);
    multiply_groups<most / row_group, Kind>((rows + row_group - 1) / row_group, tile, count,
                                            out + r * columns);
  }
#endif
}

// Calls finish(r, totals) with the finished sums of every row of x, [panel's columns]; those of int8 weights
// are still without the weights' scales.
template <std::size_t Parts, class Finish>
void multiply_parts(const QuantisedRows& x, const WeightMatrix& w, const PanelPart (&parts)[Parts],
                    const IntegerPanel& panel, Finish finish) {
  const Int8Rows int8 = int8_rows(w);
  const Int4Rows int4 = int4_rows(w);
  const std::size_t n = parts[Parts - 1].column + parts[Parts - 1].count;
  const bool packed = x.form == RowForm::split_blocks;
  for (std::size_t k = 0; k < w.columns; k += integer_panel_depth) {
    const std::size_t depth = smaller(integer_panel_depth, w.columns - k);
    const std::size_t whole_blocks = (depth + int4_block - 1) / int4_block * int4_block;
    const std::size_t next = k + depth;
    WeightsAhead ahead(x.rows);
    for (const PanelPart& part : parts) {
      if (packed) {
        unpack_int4(int4, part, k, depth, panel.weights, panel.scales);
      } else {
        unpack_int8(int8, part, k, depth, panel.weights);
      }
      const std::size_t row = next < w.columns ? part.n : part.n + part.count;
      const std::size_t from = next < w.columns ? next : 0;
      const std::size_t count = smaller(integer_panel_depth, w.columns - from);
      ahead.add({packed ? reinterpret_cast<const char*>(int4.row(row) + from / 2)
                        : reinterpret_cast<const char*>(int8.row(row) + from),
                 packed ? w.columns / 2 : w.columns, packed ? count / 2 : count},
                part.count);
    }
    Tile tile{x, k, whole_blocks, panel.weights, panel.scales, {}, false};
    switch (x.form) {
      case RowForm::whole:
        tile.depth = depth;
        multiply_panel<WholeRows>(x.rows, tile, n, panel.sums, ahead);
        break;
      case RowForm::blocks:
        multiply_panel<BlockRows<Int8Blocks>>(x.rows, tile, n, panel.totals, ahead);
        break;
      case RowForm::split_blocks:
        multiply_panel<BlockRows<Int4Blocks>>(x.rows, tile, n, panel.totals, ahead);
        break;
    }
  }
  for (std::size_t r = 0; r < x.rows; ++r) {
    const float* totals = panel.totals + r * columns;
    float scaled[columns];
    if (x.form == RowForm::whole) {
      for (std::size_t c = 0; c < n; ++c) {
        scaled[c] = static_cast<float>(panel.sums[r * columns + c]) * x.scales[r];
      }
      totals = scaled;
    }
    finish(r, totals);
  }
}

// The scales of int8 weights from row n on, or null.
const float* scales_from(const WeightMatrix& w, std::size_t n) {
  return w.type == DataType::int8 ? int8_rows(w).scales + n : nullptr;
}

void multiply(const QuantisedRows& x, std::size_t first, const LinearRows& job, const WeightMatrix& w,
              const Epilogue& epilogue, std::size_t begin, std::size_t n, const IntegerPanel& panel) {
  const float* const scales = scales_from(w, begin);
  multiply_parts(x, w, {PanelPart{begin, n, 0}}, panel, [&](std::size_t r, const float* totals) {
    finish_row(totals, scales, job, epilogue, first + r, begin, n);
  });
}

void multiply_gated(const QuantisedRows& x, std::size_t first, const WeightMatrix& w,
                    const QuantisedOutput& out, std::size_t begin, std::size_t n, const IntegerPanel& panel) {
  const std::size_t up = out.columns + begin;
  const float* const gate_scales = scales_from(w, begin);
  const float* const up_scales = scales_from(w, up);
  const bool last = begin + n == out.columns;
  multiply_parts(x, w, {PanelPart{begin, n, 0}, PanelPart{up, n, gated_columns}}, panel,
                 [&](std::size_t r, const float* totals) {
                   std::int8_t* const values = out.values + (first + r) * out.stride;
                   prefetch_for_writing(
                       reinterpret_cast<const char*>(values + finish_ahead * out.stride + begin), n);
                   float block[gated_columns];
                   for (std::size_t c = 0; c < n; c += lanes) {
                     FloatVector gate_value = load(totals + c);
                     FloatVector up_value = load(totals + gated_columns + c);
                     if (gate_scales != nullptr) {
                       gate_value = gate_value * load(gate_scales + c, n - c);
                       up_value = up_value * load(up_scales + c, n - c);
                     }
                     store(block + c, silu(gate_value) * up_value);
                   }
                   const std::size_t group = (first + r) * out.groups + begin / quantised_block;
                   float* const scale = out.scales + group;
                   std::int32_t* const start = out.starts + group;
                   if (out.form == RowForm::split_blocks) {
                     quantise_block<true>(block, n, values + begin, scale, start);
                   } else {
                     quantise_block<false>(block, n, values + begin, scale, start);
                   }
                   if (last) zero_end(begin + quantised_block, out.columns, values);
                 });
}

}  // namespace

const IntegerGemmKernels& integer_gemm_kernels() {
  static constexpr IntegerGemmKernels kernels{multiply, multiply_gated};
  return kernels;
}

}  // namespace internvl::INTERNVL_ISA
