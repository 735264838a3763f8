#include "kernels/matmul/integer_gemv.h"
#include "kernels/matmul/integer_sums.h"
#include "kernels/vector/prefetch.h"
#include "kernels/vector/with_count.h"

namespace internvl::INTERNVL_ISA {
namespace {

// Rows of W at once, as in an Int8Columns or Int4Columns.
constexpr std::size_t tile_columns = 8;
// Fewer rows of x than this meet columns, more meet column words.
constexpr int many_rows = 4;
// Blocks whose scales are loaded at once.
constexpr std::size_t blocks_at_once = 8;

// Eight rows of W, block by block; with `lone`, eight times the same one.
class Int8Tile {
 public:
  static constexpr std::size_t block_bytes = int4_block;

  Int8Tile(const Int8Rows& w, std::size_t n, bool lone)
      : row_(w.row(n)), columns_(w.columns), row_bytes_(lone ? 0 : w.columns) {}

  const char* first() const { return reinterpret_cast<const char*>(row_); }
  std::size_t row_bytes() const { return row_bytes_; }
  void begin(std::size_t) {}

  template <bool Many>
  [[gnu::always_inline]] auto weights(std::size_t block) const {
    const std::int8_t* p = row_ + block * int4_block;
    if ((block + 1) * int4_block <= columns_) return load<Many>(p, row_bytes_);
    // x ends in zeros; nothing is read past the end of a row.
    std::int8_t edge[tile_columns][int4_block] = {};
    for (std::size_t row = 0; row < tile_columns; ++row) {
      for (std::size_t i = 0; i < columns_ - block * int4_block; ++i) edge[row][i] = p[row * row_bytes_ + i];
    }
    return load<Many>(edge[0], int4_block);
  }
  // The scale of a block's sums; the weights' own scales meet the total.
  FloatVector scale(std::size_t, float x) const { return broadcast(x); }

 private:
  template <bool Many>
  [[gnu::always_inline]] static auto load(const std::int8_t* p, std::size_t row_bytes) {
    if constexpr (Many) {
      return load_int8_column_words(p, row_bytes);
    } else {
      return load_int8_columns(p, row_bytes);
    }
  }

  const std::int8_t* row_;
  std::size_t columns_;
  std::size_t row_bytes_;
};

class Int4Tile {
 public:
  static constexpr std::size_t block_bytes = int4_block / 2;

  Int4Tile(const Int4Rows& w, std::size_t n, bool lone)
      : row_(w.row(n)),
        scales_of_row_(w.row_scales(n)),
        blocks_(w.columns / int4_block),
        row_bytes_(lone ? 0 : w.columns / 2),
        row_scales_(lone ? 0 : blocks_),
        next_scales_(reinterpret_cast<const char*>(scales_of_row_ + tile_columns * row_scales_)) {}

  const char* first() const { return reinterpret_cast<const char*>(row_); }
  std::size_t row_bytes() const { return row_bytes_; }
  // Before blocks_at_once blocks from `block` on.
  [[gnu::always_inline]] void begin(std::size_t block) {
    if (row_scales_ != 0 && fits_prefetching(tile_columns * row_bytes_))
      next_scales_ = prefetch(next_scales_, tile_columns * blocks_at_once * sizeof(Float16));
    // The end of a row that is not a whole eight: the last eight again, for loading fewer takes long.
    from_ = block + blocks_at_once > blocks_ && blocks_ >= blocks_at_once ? blocks_ - blocks_at_once : block;
    const std::size_t known = blocks_ - from_ < blocks_at_once ? blocks_ - from_ : blocks_at_once;
    load_block_scales(scales_of_row_ + from_, row_scales_, known, scales_);
  }

  template <bool Many>
  [[gnu::always_inline]] auto weights(std::size_t block) const {
    if constexpr (Many) {
      return load_int4_column_words(row_ + block * block_bytes, row_bytes_);
    } else {
      return load_int4_columns(row_ + block * block_bytes, row_bytes_);
    }
  }
  FloatVector scale(std::size_t block, float x) const { return broadcast(x) * scales_[block - from_]; }

 private:
  const std::uint8_t* row_;
  const Float16* scales_of_row_;
  std::size_t blocks_;
  std::size_t row_bytes_;
  std::size_t row_scales_;
  const char* next_scales_;
  std::size_t from_ = 0;
  FloatVector scales_[blocks_at_once];
};

// All rows of x, of which there are Rows, or many_rows and more.
template <int Rows, class WeightTile, class WeightRows>
void multiply_tile(const QuantisedRows& x, const LinearRows& job, const WeightRows& w, std::size_t n,
                   bool lone) {
  constexpr bool many = Rows == many_rows;
  const std::size_t rows = many ? job.rows : Rows;
  WeightTile tile(w, n, lone);
  const bool ask = !lone && fits_prefetching(tile_columns * tile.row_bytes());
  const char* next = tile.first() + tile_columns * tile.row_bytes();
  FloatVector totals[many ? integer_gemv_rows : Rows];
  for (std::size_t r = 0; r < rows; ++r) totals[r] = broadcast(0.0F);
  for (std::size_t begin = 0; begin < x.groups; begin += blocks_at_once) {
    const std::size_t end = begin + blocks_at_once < x.groups ? begin + blocks_at_once : x.groups;
    tile.begin(begin);
    for (std::size_t block = begin; block < end; ++block) {
      if (ask) next = prefetch(next, tile_columns * WeightTile::block_bytes);
      const auto weights = tile.template weights<many>(block);
      for (std::size_t r = 0; r < rows; ++r) {
        const std::size_t group = r * x.groups + block;
        const FloatVector sum = dot(weights, x.values + r * x.stride + block * int4_block, x.starts[group]);
        totals[r] = fma(sum, tile.scale(block, x.scales[group]), totals[r]);
      }
    }
  }
  for (std::size_t r = 0; r < rows; ++r) {
    float sums[tile_columns];
    store(sums, totals[r]);
    finish_totals(sums, w, job, r, n, lone ? 1 : tile_columns);
  }
}

template <class WeightTile, class WeightRows>
void multiply_rows(const QuantisedRows& x, const LinearRows& job, const WeightRows& w, std::size_t begin,
                   std::size_t end) {
  with_count<many_rows>(job.rows, [&](auto rows) {
    constexpr int count = decltype(rows)::value;
    std::size_t n = begin;
    for (; n + tile_columns <= end; n += tile_columns) multiply_tile<count, WeightTile>(x, job, w, n, false);
    for (; n < end; ++n) multiply_tile<count, WeightTile>(x, job, w, n, true);
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
