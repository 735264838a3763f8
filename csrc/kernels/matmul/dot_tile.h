// The one way in which a row of activations meets a row of weights, for one row as for many.
//
// A sum over k is taken in blocks of `sum_block`. In a block, eight lanes run over k (lane l takes every
// eighth product, one fused multiply-add after the other), then the lanes are added by reduce_add's tree; the
// sums of blocks are added in order. So a result depends on its two rows alone: not on how many rows are
// computed at once, nor on threads, nor on whether the weights were unpacked before.
//
// Included by kernel sources only.
#pragma once

#include "kernels/vector/float/vector.h"
#include "kernels/vector/prefetch.h"

namespace internvl::INTERNVL_ISA {

constexpr std::size_t sum_block = 1024;  // a multiple of unrolled
// Elements of a row that a pass of the loop takes.
constexpr std::size_t unrolled = 8 * lanes;

// A row of weights that load as fp32 in the order of k.
template <class T>
struct PlainRow {
  const T* values;

  // Vector J of the eight that begin at k.
  template <int J>
  FloatVector at(std::size_t k) const {
    return load(values + k + lanes * J);
  }
  FloatVector tail(std::size_t k, std::size_t remaining) const { return load(values + k, remaining); }
  PlainRow from(std::size_t k) const { return {values + k}; }
  const char* address() const { return reinterpret_cast<const char*>(values); }
  static constexpr std::size_t step_bytes = unrolled * sizeof(T);
};

// Everything is inlined by force: the sums must live in registers, which a call would take from them.
template <int Rows, int Columns>
struct DotTile {
  FloatVector sum[Rows][Columns];

  // x: rows at a distance of `stride`; w[c]: the weights for all of them.
  [[gnu::always_inline]] void add(const float* x, std::size_t stride, const FloatVector (&w)[Columns]) {
    for (int r = 0; r < Rows; ++r) {
      const FloatVector row = load(x + r * stride);
      for (int c = 0; c < Columns; ++c) sum[r][c] = fma(row, w[c], sum[r][c]);
    }
  }
  [[gnu::always_inline]] void add_tail(const float* x, std::size_t stride, const FloatVector (&w)[Columns],
                                       std::size_t remaining) {
    for (int r = 0; r < Rows; ++r) {
      const FloatVector row = load(x + r * stride, remaining);
      for (int c = 0; c < Columns; ++c) sum[r][c] = fma(row, w[c], sum[r][c]);
    }
  }

  template <int J, class Row>
  [[gnu::always_inline]] void step(const float* x, std::size_t stride, const Row (&rows)[Columns],
                                   std::size_t k) {
    FloatVector w[Columns];
    for (int c = 0; c < Columns; ++c) w[c] = rows[c].template at<J>(k);
    add(x + k + lanes * J, stride, w);
  }
  template <class Row>
  [[gnu::always_inline]] void eight_steps(const float* x, std::size_t stride, const Row (&rows)[Columns],
                                          std::size_t k) {
    step<0>(x, stride, rows, k);
    step<1>(x, stride, rows, k);
    step<2>(x, stride, rows, k);
    step<3>(x, stride, rows, k);
    step<4>(x, stride, rows, k);
    step<5>(x, stride, rows, k);
    step<6>(x, stride, rows, k);
    step<7>(x, stride, rows, k);
  }

  // Adds the products of `count` elements: one block of a sum, or less. As many bytes as are read are
  // prefetched at `next`, where it is not null.
  template <class Row>
  [[gnu::always_inline]] void run(const float* x, std::size_t stride, const Row (&rows)[Columns],
                                  std::size_t count, const char* next = nullptr) {
    for (int r = 0; r < Rows; ++r) {
      for (int c = 0; c < Columns; ++c) sum[r][c] = broadcast(0.0F);
    }
    std::size_t k = 0;
    for (; k + unrolled <= count; k += unrolled) {
      if (next != nullptr) next = prefetch(next, Columns * Row::step_bytes);
      eight_steps(x, stride, rows, k);
    }
    for (; k + lanes <= count; k += lanes) step<0>(x, stride, rows, k);
    if (k < count) {
      FloatVector w[Columns];
      for (int c = 0; c < Columns; ++c) w[c] = rows[c].tail(k, count - k);
      add_tail(x + k, stride, w, count - k);
    }
  }

  // The sums of the lanes, row by row.
  [[gnu::always_inline]] void reduce(float (&sums)[Rows * Columns]) const {
    const FloatVector* all = &sum[0][0];
    int i = 0;
    for (; i + 4 <= Rows * Columns; i += 4) reduce_add4(all[i], all[i + 1], all[i + 2], all[i + 3], sums + i);
    for (; i < Rows * Columns; ++i) sums[i] = reduce_add(all[i]);
  }
};

}  // namespace internvl::INTERNVL_ISA
