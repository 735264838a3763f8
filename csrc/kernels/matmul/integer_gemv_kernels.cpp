#include <type_traits>

#include "kernels/matmul/integer_gemv.h"
#include "kernels/matmul/integer_sums.h"
#include "kernels/vector/prefetch.h"
#include "kernels/vector/with_count.h"

namespace internvl::INTERNVL_ISA {
namespace {

// Fewer rows of x than this meet columns, more meet column words.
constexpr int many_rows = 4;

// Rows of W at once, and their sums: as in an Int8Columns or Int4Columns, or as in their words.
struct FewRows {
  static constexpr std::size_t columns = 8;
  using Floats = FloatVector;
  static Floats broadcast(float x) { return INTERNVL_ISA::broadcast(x); }
  static Floats joined(const FloatVector (&eights)[1]) { return eights[0]; }
  static void store(float* p, Floats v) { INTERNVL_ISA::store(p, v); }
};
struct ManyRows {
  static constexpr std::size_t columns = integer_word_columns;
  using Floats = WordFloats;
  static Floats broadcast(float x) { return broadcast_word_floats(x); }
  static Floats joined(const FloatVector (&eights)[integer_word_columns / 8]) { return word_floats(eights); }
  static void store(float* p, Floats v) { store_word_floats(p, v); }
};
// Blocks whose scales are loaded at once.
constexpr std::size_t blocks_at_once = 8;

// Rows of W, block by block; with `lone`, the same one in place of all.
template <class Rows>
class Int8Tile {
 public:
  using Weights = Int8Rows;
  static constexpr std::size_t block_bytes = int4_block;

  Int8Tile(const Int8Rows& w, std::size_t n, bool lone)
      : row_(w.row(n)), columns_(w.columns), row_bytes_(lone ? 0 : w.columns) {}

  const char* first() const { return reinterpret_cast<const char*>(row_); }
  std::size_t row_bytes() const { return row_bytes_; }
  void begin(std::size_t) {}

  [[gnu::always_inline]] auto weights(std::size_t block) const {
    const std::int8_t* p = row_ + block * int4_block;
    if ((block + 1) * int4_block <= columns_) return load(p, row_bytes_);
    // x ends in zeros; nothing is read past the end of a row.
    std::int8_t edge[Rows::columns][int4_block] = {};
    for (std::size_t row = 0; row < Rows::columns; ++row) {
      for (std::size_t i = 0; i < columns_ - block * int4_block; ++i) edge[row][i] = p[row * row_bytes_ + i];
    }
    return load(edge[0], int4_block);
  }
  // The scale of a block's sums; the weights' own scales meet the total.
  Rows::Floats scale(std::size_t, float x) const { return Rows::broadcast(x); }

 private:
  [[gnu::always_inline]] static auto load(const std::int8_t* p, std::size_t row_bytes) {
    if constexpr (std::is_same_v<Rows, ManyRows>) {
      return load_int8_column_words(p, row_bytes);
    } else {
      return load_int8_columns(p, row_bytes);
    }
  }

  const std::int8_t* row_;
  std::size_t columns_;
  std::size_t row_bytes_;
};

template <class Rows>
class Int4Tile {
 public:
  using Weights = Int4Rows;
  static constexpr std::size_t block_bytes = int4_block / 2;

  Int4Tile(const Int4Rows& w, std::size_t n, bool lone)
      : row_(w.row(n)),
        scales_of_row_(w.row_scales(n)),
        blocks_(w.columns / int4_block),
        row_bytes_(lone ? 0 : w.columns / 2),
        row_scales_(lone ? 0 : blocks_),
        next_scales_(reinterpret_cast<const char*>(scales_of_row_ + Rows::columns * row_scales_),
                     Rows::columns * row_scales_ * sizeof(Float16)) {
    if (lone) next_scales_.stop();
  }

  const char* first() const { return reinterpret_cast<const char*>(row_); }
  std::size_t row_bytes() const { return row_bytes_; }
  // Before blocks_at_once blocks from `block` on.
  [[gnu::always_inline]] void begin(std::size_t block) {
    next_scales_.prefetch(Rows::columns * blocks_at_once * sizeof(Float16));
    // The end of a row that is not a whole eight: the last eight again, for loading fewer takes long.
    from_ = block + blocks_at_once > blocks_ && blocks_ >= blocks_at_once ? blocks_ - blocks_at_once : block;
    const std::size_t known = blocks_ - from_ < blocks_at_once ? blocks_ - from_ : blocks_at_once;
    FloatVector loaded[parts][blocks_at_once];
    for (std::size_t part = 0; part < parts; ++part)
      load_block_scales(scales_of_row_ + 8 * part * row_scales_ + from_, row_scales_, known, loaded[part]);
    for (std::size_t i = 0; i < blocks_at_once; ++i) {
      FloatVector eights[parts];
      for (std::size_t part = 0; part < parts; ++part) eights[part] = loaded[part][i];
      scales_[i] = Rows::joined(eights);
    }
  }

  [[gnu::always_inline]] auto weights(std::size_t block) const {
    if constexpr (std::is_same_v<Rows, ManyRows>) {
      return load_int4_column_words(row_ + block * block_bytes, row_bytes_);
    } else {
      return load_int4_columns(row_ + block * block_bytes, row_bytes_);
    }
  }
  Rows::Floats scale(std::size_t block, float x) const { return Rows::broadcast(x) * scales_[block - from_]; }

 private:
  static constexpr std::size_t parts = Rows::columns / 8;

  const std::uint8_t* row_;
  const Float16* scales_of_row_;
  std::size_t blocks_;
  std::size_t row_bytes_;
  std::size_t row_scales_;
  PieceAhead next_scales_;
  std::size_t from_ = 0;
  Rows::Floats scales_[blocks_at_once];
};

// All rows of x, of which there are Count, or many_rows and more.
template <int Count, class Rows, class Tile>
void multiply_tile(const QuantisedRows& x, const LinearRows& job, const typename Tile::Weights& w,
                   std::size_t n, bool lone) {
  constexpr bool many = Count == many_rows;
  const std::size_t rows = many ? job.rows : Count;
  Tile tile(w, n, lone);
  const std::size_t piece_bytes = Rows::columns * tile.row_bytes();
  PieceAhead ahead(tile.first() + piece_bytes, piece_bytes);
  if (lone) ahead.stop();
  typename Rows::Floats totals[many ? integer_gemv_rows : Count];
  for (std::size_t r = 0; r < rows; ++r) totals[r] = Rows::broadcast(0.0F);
  for (std::size_t begin = 0; begin < x.groups; begin += blocks_at_once) {
    const std::size_t end = begin + blocks_at_once < x.groups ? begin + blocks_at_once : x.groups;
    tile.begin(begin);
    for (std::size_t block = begin; block < end; ++block) {
      ahead.prefetch(Rows::columns * Tile::block_bytes);
      const auto weights = tile.weights(block);
      for (std::size_t r = 0; r < rows; ++r) {
        const std::size_t group = r * x.groups + block;
        const auto sum = dot(weights, x.values + r * x.stride + block * int4_block, x.starts[group]);
        totals[r] = fma(sum, tile.scale(block, x.scales[group]), totals[r]);
      }
    }
  }
  for (std::size_t r = 0; r < rows; ++r) {
    float sums[Rows::columns];
    Rows::store(sums, totals[r]);
    finish_totals(sums, w, job, r, n, lone ? 1 : Rows::columns);
  }
}

template <template <class> class Tile>
void multiply_rows(const QuantisedRows& x, const LinearRows& job, const typename Tile<FewRows>::Weights& w,
                   std::size_t begin, std::size_t end) {
  with_count<many_rows>(job.rows, [&](auto rows) {
    constexpr int count = decltype(rows)::value;
    using Rows = std::conditional_t<count == many_rows, ManyRows, FewRows>;
    std::size_t n = begin;
    for (; n + Rows::columns <= end; n += Rows::columns)
      multiply_tile<count, Rows, Tile<Rows>>(x, job, w, n, false);
    for (; n < end; ++n) multiply_tile<count, Rows, Tile<Rows>>(x, job, w, n, true);
  });
}

void multiply(const QuantisedRows& x, const LinearRows& job, const WeightMatrix& w, std::size_t begin,
              std::size_t end) {
  if (w.type == DataType::int8) {
    multiply_rows<Int8Tile>(x, job, int8_rows(w), begin, end);
  } else {
    multiply_rows<Int4Tile>(x, job, int4_rows(w), begin, end);
  }
}

}  // namespace

const IntegerGemvKernels& integer_gemv_kernels() {
  static constexpr IntegerGemvKernels kernels{multiply};
  return kernels;
}

}  // namespace internvl::INTERNVL_ISA
