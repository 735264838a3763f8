#include "kernels/attention/attention.h"
#include "kernels/attention/bfloat16_attention.h"
#include "kernels/matmul/pair_tile.h"
#include "kernels/vector/bfloat16/rounding.h"

namespace internvl::INTERNVL_ISA {
namespace {

constexpr float infinity = __builtin_inff();
constexpr std::size_t block_keys = bfloat16_key_block;
// 24 sums, four words of keys or values and one of a row of 32 registers.
constexpr int attention_rows_at_once = 6;
constexpr int attention_vectors = 4;

static_assert(block_keys % pair_lanes == 0 && bfloat16_head_step % pair_lanes == 0);
static_assert(bfloat16_head_step % word_row_elements == 0);

std::size_t smaller(std::size_t a, std::size_t b) { return a < b ? a : b; }

std::size_t width_of(std::size_t head_dim) {
  return (head_dim + bfloat16_head_step - 1) / bfloat16_head_step * bfloat16_head_step;
}

// head_dim is a multiple of lanes; the row ends in zeros.
void round_row(const float* from, std::size_t head_dim, std::size_t width, BFloat16* to) {
  for (std::size_t d = 0; d < head_dim; d += lanes) store_rounded(to + d, load(from + d));
  for (std::size_t d = head_dim; d < width; ++d) to[d] = {0};
}

void pack(const float* keys, const float* values, std::size_t stride, std::size_t tokens,
          std::size_t head_dim, BFloat16* packed) {
  const std::size_t width = width_of(head_dim);
  BFloat16 rows[pair_lanes * most_head_dim];
  // What lies behind the last key is zero.
  const auto round = [&](const float* all, std::size_t row, BFloat16* to) {
    if (row < tokens) return round_row(all + row * stride, head_dim, width, to);
    for (std::size_t d = 0; d < width; ++d) to[d] = {0};
  };
  for (std::size_t first = 0; first < tokens; first += block_keys) {
    for (std::size_t key = 0; key < block_keys; key += pair_lanes) {
      for (std::size_t i = 0; i < pair_lanes; ++i) round(keys, first + key + i, rows + i * width);
      for (std::size_t d = 0; d < width; d += word_row_elements) {
        store_words(rows + d, width, packed + d * block_keys + 2 * key, 2 * block_keys);
      }
    }
    packed += block_keys * width;
    for (std::size_t key = 0; key < block_keys; key += 2) {
      BFloat16* const second = rows + width;
      round(values, first + key, rows);
      round(values, first + key + 1, second);
      for (std::size_t d = 0; d < width; ++d) {
        packed[key * width + 2 * d] = rows[d];
        packed[key * width + 2 * d + 1] = second[d];
      }
    }
    packed += block_keys * width;
  }
}

// Scores of a row and a block, not scaled yet. Those behind `count`, which may be anything, become -infinity.
float greatest_of(float* scores, std::size_t count) {
  for (std::size_t key = count; key < block_keys; ++key) scores[key] = -infinity;
  FloatVector greatest = load(scores);
  for (std::size_t key = lanes; key < count; key += lanes) greatest = max(greatest, load(scores + key));
  return reduce_max(greatest);
}

// weights = exp(scale * scores - greatest), and 0 up to a whole vector, and so a pair; returns their sum.
float exponentiate(const float* scores, std::size_t count, float scale, float greatest, BFloat16* weights) {
  const FloatVector factor = broadcast(scale);
  const FloatVector base = broadcast(-greatest);
  FloatVector sum = broadcast(0.0F);
  for (std::size_t key = 0; key < count; key += lanes) {
    const FloatVector p = exp(fma(load(scores + key), factor, base));
    store_rounded(weights + key, p);
    sum = sum + p;
  }
  return reduce_add(sum);
}

struct Row {
  float greatest = -infinity;  // of the scaled scores so far
  float total = 0;             // of exp(score - greatest)
};

void attend(const float* queries, std::size_t stride, std::size_t rows, const BFloat16* packed,
            std::size_t tokens, std::size_t head_dim, float scale, float* out, std::size_t out_stride) {
  const std::size_t width = width_of(head_dim);
  alignas(64) BFloat16 rounded[bfloat16_attention_rows * most_head_dim];
  alignas(64) float scores[bfloat16_attention_rows * block_keys];
  alignas(64) BFloat16 weights[bfloat16_attention_rows * block_keys];
  alignas(64) float values[bfloat16_attention_rows * most_head_dim];
  Row state[bfloat16_attention_rows];
  for (std::size_t r = 0; r < rows; ++r)
    round_row(queries + r * stride, head_dim, width, rounded + r * width);
  for (std::size_t first = 0; first < tokens; first += block_keys) {
    const std::size_t count = smaller(block_keys, tokens - first);
    multiply_pairs<attention_rows_at_once, attention_vectors>(rounded, width, rows, {packed, block_keys},
                                                              (count + pair_lanes - 1) / pair_lanes,
                                                              width / 2, false, scores, block_keys);
    for (std::size_t r = 0; r < rows; ++r) {
      float* const row = scores + r * block_keys;
      const float here = greatest_of(row, count) * scale;
      const float greatest = here > state[r].greatest ? here : state[r].greatest;
      if (first > 0 && greatest > state[r].greatest) {
        float correction[lanes];
        store(correction, exp(broadcast(state[r].greatest) - broadcast(greatest)));
        state[r].total *= correction[0];
        for (std::size_t d = 0; d < width; d += lanes) {
          float* const place = values + r * width + d;
          store(place, load(place) * broadcast(correction[0]));
        }
      }
      state[r].greatest = greatest;
      state[r].total += exponentiate(row, count, scale, greatest, weights + r * block_keys);
    }
    multiply_pairs<attention_rows_at_once, attention_vectors>(
        weights, block_keys, rows, {packed + block_keys * width, width}, width / pair_lanes, (count + 1) / 2,
        first > 0, values, width);
    packed += 2 * block_keys * width;
  }
  for (std::size_t r = 0; r < rows; ++r) {
    const FloatVector factor = broadcast(1.0F / state[r].total);
    for (std::size_t d = 0; d < head_dim; d += lanes) {
      store(out + r * out_stride + d, load(values + r * width + d) * factor);
    }
  }
}

}  // namespace

const BFloat16AttentionKernels& bfloat16_attention_kernels() {
  static constexpr BFloat16AttentionKernels kernels{pack, attend};
  return kernels;
}

}  // namespace internvl::INTERNVL_ISA
