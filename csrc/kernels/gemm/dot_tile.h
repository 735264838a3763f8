// The one way in which a row of activations meets a row of weights, for one row as for many.
//
// A sum over k is taken in blocks of `sum_block`. In a block, eight lanes run over k (lane l takes every
// eighth product, one fused multiply-add after the other), then the lanes are added by reduce_add's tree; the
// sums of blocks are added in order. So a result depends on its two rows alone: not on how many rows are
// computed at once, nor on threads, nor on whether the weights were unpacked before.
//
// int4 weights come in the order of Int4Words: their activations are interleaved alike (interleave_int4).
//
// Included by kernel sources only.
#pragma once

#include "kernels/vector/float_vector.h"
#include "kernels/vector/prefetch.h"

namespace internvl::INTERNVL_ISA {

constexpr std::size_t sum_block = 1024;  // a multiple of int4_step

// A row of weights that load as fp32 in the order of k.
template <class T>
struct PlainRow {
  static constexpr bool interleaved = false;
  const T* values;

  // Vector J of the eight that begin at k.
  template <int J>
  FloatVector at(std::size_t k) const {
    return load(values + k + lanes * J);
  }
  FloatVector tail(std::size_t k, std::size_t remaining) const { return load(values + k, remaining); }
  PlainRow from(std::size_t k) const { return {values + k}; }
  const char* address() const { return reinterpret_cast<const char*>(values); }
  static constexpr std::size_t step_bytes = int4_step * sizeof(T);
};

// A row of int4 weights with a scale for every 32, in units of int4_unit.
struct Int4Row {
  static constexpr bool interleaved = true;
  const std::uint8_t* values;
  const Float16* scales;

  template <int J>
  FloatVector at(std::size_t k) const {
    return nibbles<J>(load_int4(values + k / 2)) * load_int4_scales(scales + k / 32);
  }
  // The eight vectors that begin at k, of which only 32 elements are in the row.
  template <int J>
  FloatVector half_at(std::size_t k) const {
    return nibbles<J>(load_int4_half(values + k / 2)) * load_int4_scales_half(scales + k / 32);
  }
  Int4Row from(std::size_t k) const { return {values + k / 2, scales + k / 32}; }
  const char* address() const { return reinterpret_cast<const char*>(values); }
  static constexpr std::size_t step_bytes = int4_step / 2;
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
  template <int J, class Row>
  [[gnu::always_inline]] void half_step(const float* x, std::size_t stride, const Row (&rows)[Columns],
                                        std::size_t k) {
    FloatVector w[Columns];
    for (int c = 0; c < Columns; ++c) w[c] = rows[c].template half_at<J>(k);
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

  // Adds the products of `count` elements: one block of a sum, or less. As many bytes as are read are asked
  // for at `next`, where it is not null.
  template <class Row>
  [[gnu::always_inline]] void run(const float* x, std::size_t stride, const Row (&rows)[Columns],
                                  std::size_t count, const char* next = nullptr) {
    for (int r = 0; r < Rows; ++r) {
      for (int c = 0; c < Columns; ++c) sum[r][c] = broadcast(0.0F);
    }
    std::size_t k = 0;
    for (; k + int4_step <= count; k += int4_step) {
      if (next != nullptr) next = ask_for(next, Columns * Row::step_bytes);
      eight_steps(x, stride, rows, k);
    }
    if constexpr (Row::interleaved) {
      if (k < count) {
        half_step<0>(x, stride, rows, k);
        half_step<1>(x, stride, rows, k);
        half_step<2>(x, stride, rows, k);
        half_step<3>(x, stride, rows, k);
        half_step<4>(x, stride, rows, k);
        half_step<5>(x, stride, rows, k);
        half_step<6>(x, stride, rows, k);
        half_step<7>(x, stride, rows, k);
      }
    } else {
      for (; k + lanes <= count; k += lanes) step<0>(x, stride, rows, k);
      if (k < count) {
        FloatVector w[Columns];
        for (int c = 0; c < Columns; ++c) w[c] = rows[c].tail(k, count - k);
        add_tail(x + k, stride, w, count - k);
      }
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

// What becomes of a finished sum: the same operations in the same order everywhere.
inline float finished(float sum, float scale, const float* bias, const float* addend) {
  float value = sum * scale;
  if (bias != nullptr) value += *bias;
  if (addend != nullptr) value += *addend;
  return value;
}

}  // namespace internvl::INTERNVL_ISA
