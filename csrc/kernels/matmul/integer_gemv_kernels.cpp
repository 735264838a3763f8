#include "kernels/matmul/integer_gemv.h"
#include "kernels/matmul/integer_sums.h"
#include "kernels/vector/prefetch.h"

namespace internvl::INTERNVL_ISA {
namespace {

// Rows of x that meet the weights at once. More rows than that meet the same few rows of W again, out of the
// first-level cache.
constexpr std::size_t rows_at_once = 4;

// Rows of W at once: eight sums, and what else is needed fits the registers.
template <int Rows>
constexpr int int8_columns = Rows <= 2 ? 4 : 2;
constexpr std::size_t most_int8_columns = 4;
// An Int4Columns has as many.
constexpr std::size_t int4_columns = 8;

template <int Rows, int Columns>
void int8_tile(const QuantisedRows& x, std::size_t first, const LinearRows& job, const Int8Rows& w,
               std::size_t n) {
  constexpr std::size_t step = 4 * sum_lanes;
  const std::int8_t* x_row[Rows];
  for (int r = 0; r < Rows; ++r) x_row[r] = x.values + (first + static_cast<std::size_t>(r)) * x.stride;
  const std::int8_t* w_row[Columns];
  for (int c = 0; c < Columns; ++c) w_row[c] = w.values + (n + static_cast<std::size_t>(c)) * w.columns;
  Int32Vector sum[Rows][Columns];
  for (int r = 0; r < Rows; ++r) {
    for (int c = 0; c < Columns; ++c) sum[r][c] = zero_sums();
  }
  const bool ask = first == 0 && fits_prefetching(Columns * w.columns);
  const char* next = reinterpret_cast<const char*>(w_row[0] + Columns * w.columns);
  std::size_t k = 0;
  for (; k + step <= w.columns; k += step) {
    Int8Vector xs[Rows];
    for (int r = 0; r < Rows; ++r) xs[r] = load_int8(x_row[r] + k);
    if (ask) next = prefetch(next, Columns * step);
    for (int c = 0; c < Columns; ++c) {
      const Int8Weights weights = int8_weights(load_int8(w_row[c] + k));
      for (int r = 0; r < Rows; ++r) sum[r][c] = dot(sum[r][c], weights, xs[r]);
    }
  }
  if (k < w.columns) {
    // x ends in zeros, so whatever stands for the weights there does not count.
    Int8Vector xs[Rows];
    for (int r = 0; r < Rows; ++r) xs[r] = load_int8(x_row[r] + k);
    for (int c = 0; c < Columns; ++c) {
      const Int8Weights weights = int8_weights(load_int8(w_row[c] + k, w.columns - k));
      for (int r = 0; r < Rows; ++r) sum[r][c] = dot(sum[r][c], weights, xs[r]);
    }
  }
  for (int r = 0; r < Rows; ++r) {
    const std::size_t row = first + static_cast<std::size_t>(r);
    float totals[Columns];
    for (int c = 0; c < Columns; ++c) {
      totals[c] = static_cast<float>(sum_of_lanes(sum[r][c]) + x.starts[row]) * x.scales[row];
    }
    finish_totals(totals, w, job, row, n, Columns);
  }
}

template <int Rows>
void int8_columns_of(const QuantisedRows& x, std::size_t first, const LinearRows& job, const Int8Rows& w,
                     std::size_t n, std::size_t end) {
  constexpr int columns = int8_columns<Rows>;
  for (; n + columns <= end; n += columns) int8_tile<Rows, columns>(x, first, job, w, n);
  for (; n < end; ++n) int8_tile<Rows, 1>(x, first, job, w, n);
}

// Fewer rows of x than this meet Int4Columns, more meet Int4ColumnWords.
constexpr int many_rows = 4;

template <bool Many>
[[gnu::always_inline]] inline auto weights_of(const std::uint8_t* p, std::size_t row_bytes) {
  if constexpr (Many) {
    return load_int4_column_words(p, row_bytes);
  } else {
    return load_int4_columns(p, row_bytes);
  }
}

// All rows of x, of which there are Rows, or many_rows and more. With `lone`, row n of W alone: all eight
// columns are the same one.
template <int Rows>
void int4_tile(const QuantisedRows& x, const LinearRows& job, const Int4Rows& w, std::size_t n, bool lone) {
  constexpr bool many = Rows == many_rows;
  const std::size_t rows = many ? job.rows : Rows;
  const std::size_t blocks = w.columns / int4_block;
  const std::size_t row_bytes = lone ? 0 : w.columns / 2;
  const std::size_t row_scales = lone ? 0 : blocks;
  const std::uint8_t* row = w.row(n);
  const Float16* block_scales = w.row_scales(n);
  const bool ask = !lone && fits_prefetching(int4_columns * row_bytes);
  const char* next = reinterpret_cast<const char*>(row) + int4_columns * row_bytes;
  const char* next_scales = reinterpret_cast<const char*>(block_scales + int4_columns * row_scales);
  FloatVector totals[many ? integer_gemv_rows : Rows];
  for (std::size_t r = 0; r < rows; ++r) totals[r] = broadcast(0.0F);
  for (std::size_t begin = 0; begin < blocks; begin += 8) {
    const std::size_t count = blocks - begin < 8 ? blocks - begin : 8;
    if (ask) next_scales = prefetch(next_scales, int4_columns * 8 * sizeof(Float16));
    // The end of a row that is not a whole eight: the last eight again, for loading fewer takes long.
    const std::size_t from = count < 8 && blocks >= 8 ? blocks - 8 : begin;
    FloatVector scales[8];
    load_block_scales(block_scales + from, row_scales, blocks - from < 8 ? blocks - from : 8, scales);
    for (std::size_t b = 0; b < count; ++b) {
      const std::size_t block = begin + b;
      if (ask) next = prefetch(next, int4_columns * int4_block / 2);
      const auto weights = weights_of<many>(row + block * int4_block / 2, row_bytes);
      for (std::size_t r = 0; r < rows; ++r) {
        const std::size_t group = r * x.groups + block;
        const FloatVector sum = dot(weights, x.values + r * x.stride + block * int4_block, x.starts[group]);
        totals[r] = fma(sum, broadcast(x.scales[group]) * scales[block - from], totals[r]);
      }
    }
  }
  for (std::size_t r = 0; r < rows; ++r) {
    float sums[int4_columns];
    store(sums, totals[r]);
    finish_totals(sums, w, job, r, n, lone ? 1 : int4_columns);
  }
}

template <int Rows>
void int4_rows_of(const QuantisedRows& x, const LinearRows& job, const Int4Rows& w, std::size_t begin,
                  std::size_t end) {
  std::size_t n = begin;
  for (; n + int4_columns <= end; n += int4_columns) int4_tile<Rows>(x, job, w, n, false);
  for (; n < end; ++n) int4_tile<Rows>(x, job, w, n, true);
}

void multiply_int4(const QuantisedRows& x, const LinearRows& job, const Int4Rows& w, std::size_t begin,
                   std::size_t end) {
  static_assert(many_rows == 4);
  switch (job.rows) {
    case 1:
      return int4_rows_of<1>(x, job, w, begin, end);
    case 2:
      return int4_rows_of<2>(x, job, w, begin, end);
    case 3:
      return int4_rows_of<3>(x, job, w, begin, end);
    default:
      return int4_rows_of<many_rows>(x, job, w, begin, end);
  }
}

// Calls function(first row, rows) with groups of rows, the number of rows a template's argument.
template <class Function>
void in_row_groups(std::size_t rows, Function function) {
  for (std::size_t first = 0; first < rows; first += rows_at_once) {
    switch (rows - first) {
      case 1:
        function.template operator()<1>(first);
        break;
      case 2:
        function.template operator()<2>(first);
        break;
      case 3:
        function.template operator()<3>(first);
        break;
      default:
        function.template operator()<4>(first);
        break;
    }
  }
}

void multiply(const QuantisedRows& x, const LinearRows& job, const WeightMatrix& w, std::size_t begin,
              std::size_t end) {
  if (w.type == DataType::int8) {
    const Int8Rows rows = int8_rows(w);
    for (std::size_t n = begin; n < end; n += most_int8_columns) {
      const std::size_t n_end = end - n < most_int8_columns ? end : n + most_int8_columns;
      in_row_groups(job.rows, [&]<int Rows>(std::size_t first) {
        int8_columns_of<Rows>(x, first, job, rows, n, n_end);
      });
    }
  } else {
    multiply_int4(x, job, int4_rows(w), begin, end);
  }
}

}  // namespace

const IntegerGemvKernels& integer_gemv_kernels() {
  static constexpr IntegerGemvKernels kernels{multiply};
  return kernels;
}

}  // namespace internvl::INTERNVL_ISA
