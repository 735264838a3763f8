// How keys and values lie in a block (attention.h), and how they get there. Included by kernel sources only.
#pragma once

#include <cstdint>

#include "kernels/attention/attention.h"
#include "kernels/vector/bfloat16/rounding.h"
#include "kernels/vector/bfloat16/vector.h"
#include "kernels/vector/float/half.h"
#include "kernels/vector/float/wide.h"

namespace internvl::INTERNVL_ISA {

// float and Float16. key<Half>(d, key) and value<Half>(key, d) are wide_lanes neighbouring keys or elements;
// Half is the last bit of the number of the element or key.
template <class T>
struct PlainBlock {
  using Element = T;
  static constexpr bool scaled = false;

  const T* keys;
  const T* values;
  std::size_t width;

  PlainBlock(const std::byte* p, std::size_t head_dim)
      : keys(reinterpret_cast<const T*>(p)),
        values(keys + head_dim * cache_block),
        width(value_width(head_dim)) {}

  template <int Half>
  [[gnu::always_inline]] WideVector key(std::size_t d, std::size_t key) const {
    return load_wide(keys + d * cache_block + key);
  }
  template <int Half>
  [[gnu::always_inline]] WideVector value(std::size_t key, std::size_t d) const {
    return load_wide(values + key * width + d);
  }
  const float* key_scales() const { return nullptr; }
  const float* value_scales() const { return nullptr; }
};

// BFloat16 and int8.
template <class T>
struct PairBlock {
  using Element = T;
  static constexpr bool scaled = sizeof(T) == 1;

  const T* keys;
  const T* values;
  std::size_t width;

  PairBlock(const std::byte* p, std::size_t head_dim)
      : keys(reinterpret_cast<const T*>(p)),
        values(keys + head_dim * cache_block),
        width(value_width(head_dim)) {}

  template <int Half>
  [[gnu::always_inline]] WideVector key(std::size_t d, std::size_t key) const {
    return half<Half>(keys + (d - Half) * cache_block + 2 * key);
  }
  template <int Half>
  [[gnu::always_inline]] WideVector value(std::size_t key, std::size_t d) const {
    return half<Half>(values + (key - Half) * width + 2 * d);
  }
  const float* key_scales() const {
    return scaled ? reinterpret_cast<const float*>(values + cache_block * width) : nullptr;
  }
  const float* value_scales() const { return scaled ? key_scales() + cache_block : nullptr; }

 private:
  template <int Half>
  [[gnu::always_inline]] static WideVector half(const T* p) {
    if constexpr (Half == 0) {
      return load_firsts(p);
    } else {
      return load_seconds(p);
    }
  }
};

inline void convert_row(const float* from, std::size_t n, float* to) {
  for (std::size_t i = 0; i < n; i += lanes) store(to + i, load(from + i));
}
inline void convert_row(const float* from, std::size_t n, Float16* to) {
  // Beyond its greatest number float16 has infinity, with which nothing can be computed. NaN is the second
  // operand, and so stays.
  const FloatVector most = broadcast(65504.0F);
  for (std::size_t i = 0; i < n; i += lanes) {
    store_rounded(to + i, max(broadcast(0.0F) - most, min(most, load(from + i))));
  }
}
inline void convert_row(const float* from, std::size_t n, BFloat16* to) {
  for (std::size_t i = 0; i < n; i += lanes) store_rounded(to + i, load(from + i));
}
// Gives the scale of the integers; NaN where an element is not finite.
inline float convert_row(const float* from, std::size_t n, std::int8_t* to) {
  FloatVector magnitude = broadcast(0.0F);
  FloatVector poison = broadcast(0.0F);
  for (std::size_t i = 0; i < n; i += lanes) {
    const FloatVector x = load(from + i);
    magnitude = max(magnitude, max(x, broadcast(0.0F) - x));
    poison = fma(x, broadcast(0.0F), poison);  // 0 * infinity is NaN
  }
  const float unsure = reduce_add(poison);
  const float greatest = reduce_max(magnitude) + unsure;
  // Below, the scale would lose its precision or 127 / greatest overflow: zeros.
  const bool any = greatest >= 0x1p-100F;
  const FloatVector inverse = broadcast(any ? 127.0F / greatest : 0.0F);
  // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, ties to even.
  const FloatVector rounder = broadcast(12582912.0F);
  for (std::size_t i = 0; i < n; i += lanes) {
    float rounded[lanes];
    store(rounded, fma(load(from + i), inverse, rounder) - rounder);
    for (std::size_t j = 0; j < lanes; ++j) to[i + j] = static_cast<std::int8_t>(any ? rounded[j] : 0.0F);
  }
  return any ? greatest / 127.0F : unsure;
}

template <class T>
void write_plain(const TokenRows& tokens, std::size_t slot, std::byte* block) {
  const std::size_t d = tokens.head_dim;
  T* const keys = reinterpret_cast<T*>(block);
  T* const values = keys + d * cache_block;
  T row[most_head_dim];
  for (std::size_t i = 0; i < tokens.count; ++i) {
    convert_row(tokens.keys + i * tokens.stride, d, row);
    for (std::size_t j = 0; j < d; ++j) keys[j * cache_block + slot + i] = row[j];
    convert_row(tokens.values + i * tokens.stride, d, values + (slot + i) * value_width(d));
  }
}

// Word i of a row to out[i * step].
template <class T>
void scatter_words(const T* row, std::size_t words, T* out, std::size_t step) {
  for (std::size_t i = 0; i < words; ++i) {
    out[2 * i * step] = row[2 * i];
    out[2 * i * step + 1] = row[2 * i + 1];
  }
}

// Two neighbouring values as words, or one of them.
template <class T>
void write_values(const T* first, const T* second, std::size_t head_dim, T* words) {
  if (first != nullptr && second != nullptr) {
    for (std::size_t d = 0; d < head_dim; ++d) {
      words[2 * d] = first[d];
      words[2 * d + 1] = second[d];
    }
    return;
  }
  const T* const row = first != nullptr ? first : second;
  T* const place = words + (first != nullptr ? 0 : 1);
  for (std::size_t d = 0; d < head_dim; ++d) place[2 * d] = row[d];
}

// As many neighbouring tokens as one transposition of words takes.
inline void write_keys_together(const BFloat16* rows, std::size_t head_dim, BFloat16* words) {
  for (std::size_t d = 0; d < head_dim; d += word_row_elements) {
    store_words(rows + d, head_dim, words + d * cache_block, 2 * cache_block);
  }
}

inline void write_pairs_bfloat16(const TokenRows& tokens, std::size_t slot, std::byte* block) {
  const std::size_t d = tokens.head_dim;
  const std::size_t width = value_width(d);
  BFloat16* const keys = reinterpret_cast<BFloat16*>(block);
  BFloat16* const values = keys + d * cache_block;
  BFloat16 rows[pair_lanes * most_head_dim];
  for (std::size_t i = 0; i < tokens.count;) {
    const std::size_t at = slot + i;
    const bool together = tokens.count - i >= pair_lanes && d % word_row_elements == 0;
    const std::size_t count = together ? pair_lanes : 1;
    for (std::size_t j = 0; j < count; ++j)
      convert_row(tokens.keys + (i + j) * tokens.stride, d, rows + j * d);
    if (together) {
      write_keys_together(rows, d, keys + 2 * at);
    } else {
      scatter_words(rows, d / 2, keys + 2 * at, cache_block);
    }
    i += count;
  }
  for (std::size_t i = 0; i < tokens.count;) {
    const std::size_t at = slot + i;
    convert_row(tokens.values + i * tokens.stride, d, rows);
    const bool both = at % 2 == 0 && i + 1 < tokens.count;
    if (both) convert_row(tokens.values + (i + 1) * tokens.stride, d, rows + d);
    write_values<BFloat16>(at % 2 == 0 ? rows : nullptr,
                           at % 2 == 1 ? rows
                           : both      ? rows + d
                                       : nullptr,
                           d, values + at / 2 * 2 * width);
    i += both ? 2 : 1;
  }
}

inline void write_pairs_int8(const TokenRows& tokens, std::size_t slot, std::byte* block) {
  const std::size_t d = tokens.head_dim;
  const std::size_t width = value_width(d);
  auto* const keys = reinterpret_cast<std::int8_t*>(block);
  std::int8_t* const values = keys + d * cache_block;
  auto* const scales = reinterpret_cast<float*>(values + width * cache_block);
  std::int8_t row[most_head_dim];
  for (std::size_t i = 0; i < tokens.count; ++i) {
    const std::size_t at = slot + i;
    scales[at] = convert_row(tokens.keys + i * tokens.stride, d, row);
    scatter_words(row, d / 2, keys + 2 * at, cache_block);
    scales[cache_block + at] = convert_row(tokens.values + i * tokens.stride, d, row);
    write_values<std::int8_t>(at % 2 == 0 ? row : nullptr, at % 2 == 1 ? row : nullptr, d,
                              values + at / 2 * 2 * width);
  }
}

}  // namespace internvl::INTERNVL_ISA
