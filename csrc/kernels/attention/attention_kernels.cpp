#include "kernels/attention/attention.h"
#include "kernels/vector/float/vector.h"
#include "kernels/vector/prefetch.h"
#include "kernels/vector/with_count.h"

namespace internvl::INTERNVL_ISA {
namespace {

constexpr float infinity = __builtin_inff();

// Calls function(first row, Count<rows>) on groups of about equal size, each of at most attention_tile_rows.
template <class Function>
void in_row_groups(std::size_t begin, std::size_t end, Function function) {
  constexpr std::size_t most = attention_tile_rows;
  while (begin < end) {
    const std::size_t groups = (end - begin + most - 1) / most;
    const std::size_t rows = (end - begin + groups - 1) / groups;
    with_count<attention_tile_rows>(rows, [&](auto count) { function(begin, count); });
    begin += rows;
  }
}

// Keys and values of one head in one block of the cache.
template <class T>
struct Block {
  const T* keys;
  const T* values;
  const float* key_scales = nullptr;  // int8
  const float* value_scales = nullptr;

  Block(const std::byte* p, std::size_t head_dim)
      : keys(reinterpret_cast<const T*>(p)), values(keys + head_dim * cache_block) {
    if constexpr (scaled) {
      key_scales = reinterpret_cast<const float*>(values + cache_block * head_dim);
      value_scales = key_scales + cache_block;
    }
  }
  static constexpr bool scaled = sizeof(T) == 1;
};

// scores[r, key] = scale * (query r . key), for all keys of a block. As many bytes as the keys have are asked
// for at `next`, where it is not null.
template <int Rows, class T>
void score(const float* const* queries, const Block<T>& block, std::size_t head_dim, float scale,
           float* scores, const char* next) {
  const T* keys = block.keys;
  const FloatVector factor = broadcast(scale);
  for (std::size_t key = 0; key < cache_block; key += 2 * lanes) {
    FloatVector sum[Rows][2];
    for (int r = 0; r < Rows; ++r) sum[r][0] = sum[r][1] = broadcast(0.0F);
    for (std::size_t d = 0; d < head_dim; ++d) {
      if (next != nullptr) next = prefetch<Cache::second>(next, cache_block * sizeof(T));
      const FloatVector left = load(keys + d * cache_block + key);
      const FloatVector right = load(keys + d * cache_block + key + lanes);
      for (int r = 0; r < Rows; ++r) {
        const FloatVector q = broadcast(queries[r][d]);
        sum[r][0] = fma(q, left, sum[r][0]);
        sum[r][1] = fma(q, right, sum[r][1]);
      }
    }
    next = nullptr;
    constexpr bool scaled = Block<T>::scaled;
    const FloatVector left = scaled ? factor * load(block.key_scales + key) : factor;
    const FloatVector right = scaled ? factor * load(block.key_scales + key + lanes) : factor;
    for (int r = 0; r < Rows; ++r) {
      float* out = scores + static_cast<std::size_t>(r) * cache_block + key;
      store(out, sum[r][0] * left);
      store(out + lanes, sum[r][1] * right);
    }
  }
}

// Turns the scores of one row into exp(score - greatest); returns their sum.
float exponentiate(float* scores, float greatest) {
  const FloatVector base = broadcast(greatest);
  FloatVector sum = broadcast(0.0F);
  for (std::size_t key = 0; key < cache_block; key += lanes) {
    const FloatVector p = exp(load(scores + key) - base);
    store(scores + key, p);
    sum = sum + p;
  }
  return reduce_add(sum);
}

void multiply(float* weights, const float* scales) {
  for (std::size_t key = 0; key < cache_block; key += lanes) {
    store(weights + key, load(weights + key) * load(scales + key));
  }
}

float greatest_of(const float* scores) {
  FloatVector greatest = load(scores);
  for (std::size_t key = lanes; key < cache_block; key += lanes) greatest = max(greatest, load(scores + key));
  return reduce_max(greatest);
}

// values[r] = values[r] * correction[r] + sum over keys of weights[r, key] * value[key]. As many bytes as are
// read are asked for at `next`, where it is not null.
template <int Rows, class T>
void add_values(const float* weights, const float* corrections, const T* values, std::size_t keys,
                std::size_t head_dim, float* out, const char* next) {
  std::size_t d = 0;
  for (; d + 2 * lanes <= head_dim; d += 2 * lanes) {
    FloatVector sum[Rows][2];
    for (int r = 0; r < Rows; ++r) {
      const FloatVector correction = broadcast(corrections[r]);
      sum[r][0] = load(out + static_cast<std::size_t>(r) * head_dim + d) * correction;
      sum[r][1] = load(out + static_cast<std::size_t>(r) * head_dim + d + lanes) * correction;
    }
    for (std::size_t key = 0; key < keys; ++key) {
      if (next != nullptr) next = prefetch<Cache::second>(next, head_dim * sizeof(T));
      const FloatVector left = load(values + key * head_dim + d);
      const FloatVector right = load(values + key * head_dim + d + lanes);
      for (int r = 0; r < Rows; ++r) {
        const FloatVector w = broadcast(weights[static_cast<std::size_t>(r) * cache_block + key]);
        sum[r][0] = fma(w, left, sum[r][0]);
        sum[r][1] = fma(w, right, sum[r][1]);
      }
    }
    next = nullptr;
    for (int r = 0; r < Rows; ++r) {
      store(out + static_cast<std::size_t>(r) * head_dim + d, sum[r][0]);
      store(out + static_cast<std::size_t>(r) * head_dim + d + lanes, sum[r][1]);
    }
  }
  for (; d < head_dim; d += lanes) {
    for (int r = 0; r < Rows; ++r) {
      float* place = out + static_cast<std::size_t>(r) * head_dim + d;
      FloatVector sum = load(place) * broadcast(corrections[r]);
      for (std::size_t key = 0; key < keys; ++key) {
        const FloatVector w = broadcast(weights[static_cast<std::size_t>(r) * cache_block + key]);
        sum = fma(w, load(values + key * head_dim + d), sum);
      }
      store(place, sum);
    }
  }
}

// correction[i] = exp(from[i] - to[i]); 0 where from is -infinity, whatever `to` is.
void corrections_of(const float* from, const float* to, std::size_t count, float* corrections) {
  for (std::size_t i = 0; i < count; i += lanes) {
    const FloatVector v = exp(load(from + i, count - i) - load(to + i, count - i));
    store(corrections + i, v, count - i);
  }
  for (std::size_t i = 0; i < count; ++i) {
    if (from[i] == -infinity) corrections[i] = 0.0F;
  }
}

template <class T>
void attend(const QueryRows& job, const std::byte* const* blocks, std::size_t first_key, std::size_t count,
            const AttentionState& state) {
  alignas(32) float scores[attention_rows * cache_block];
  float greatest[attention_rows] = {};
  float corrections[attention_rows];
  for (std::size_t r = 0; r < job.rows; ++r) {
    state.greatest[r] = -infinity;
    state.total[r] = 0.0F;
  }
  for (std::size_t i = 0; i < job.rows * job.head_dim; ++i) state.values[i] = 0.0F;
  std::size_t begin = 0;  // rows before it see nothing from here on
  for (std::size_t b = 0; b < count; ++b) {
    const std::size_t block_key = first_key + b * cache_block;
    while (begin < job.rows && job.visible[begin] <= block_key) ++begin;
    if (begin == job.rows) return;
    const Block<T> block(blocks[b], job.head_dim);
    // One pass over the next block's memory, in the order of its addresses, while the first rows pass here.
    const bool ask = b + 1 < count;
    const char* const next = ask ? reinterpret_cast<const char*>(blocks[b + 1]) : nullptr;
    in_row_groups(begin, job.rows, [&](std::size_t row, auto rows) {
      score<decltype(rows)::value>(job.queries + row, block, job.head_dim, job.scale,
                                   scores + row * cache_block, row == begin ? next : nullptr);
    });
    std::size_t most = 0;
    for (std::size_t r = begin; r < job.rows; ++r) {
      float* row = scores + r * cache_block;
      const std::size_t seen =
          job.visible[r] - block_key < cache_block ? job.visible[r] - block_key : cache_block;
      // The rest of the block may hold anything.
      for (std::size_t key = seen; key < cache_block; ++key) row[key] = -infinity;
      const float here = greatest_of(row);
      greatest[r] = here > state.greatest[r] ? here : state.greatest[r];
      most = seen > most ? seen : most;
    }
    corrections_of(state.greatest + begin, greatest + begin, job.rows - begin, corrections + begin);
    for (std::size_t r = begin; r < job.rows; ++r) {
      state.total[r] = state.total[r] * corrections[r] + exponentiate(scores + r * cache_block, greatest[r]);
      state.greatest[r] = greatest[r];
      // What stands for keys that a row does not see is not used.
      if constexpr (Block<T>::scaled) multiply(scores + r * cache_block, block.value_scales);
    }
    const char* const next_values = ask ? next + job.head_dim * cache_block * sizeof(T) : nullptr;
    in_row_groups(begin, job.rows, [&](std::size_t row, auto rows) {
      add_values<decltype(rows)::value>(scores + row * cache_block, corrections + row, block.values, most,
                                        job.head_dim, state.values + row * job.head_dim,
                                        row == begin ? next_values : nullptr);
    });
  }
}

void pack(const float* keys, const float* values, std::size_t stride, std::size_t count, std::size_t head_dim,
          float* block) {
  float* packed_values = block + head_dim * cache_block;
  for (std::size_t key = 0; key < count; ++key) {
    const float* from = keys + key * stride;
    for (std::size_t d = 0; d < head_dim; ++d) block[d * cache_block + key] = from[d];
    for (std::size_t d = 0; d < head_dim; d += lanes) {
      store(packed_values + key * head_dim + d, load(values + key * stride + d));
    }
  }
}

void merge(std::size_t rows, std::size_t head_dim, const AttentionState& state, const AttentionState& next) {
  float greatest[attention_rows] = {};
  float before[attention_rows];
  float after[attention_rows];
  for (std::size_t r = 0; r < rows; ++r) {
    greatest[r] = state.greatest[r] > next.greatest[r] ? state.greatest[r] : next.greatest[r];
  }
  corrections_of(state.greatest, greatest, rows, before);
  corrections_of(next.greatest, greatest, rows, after);
  for (std::size_t r = 0; r < rows; ++r) {
    // A row that saw nothing of the next span keeps its bits.
    if (next.greatest[r] == -infinity) continue;
    state.greatest[r] = greatest[r];
    state.total[r] = state.total[r] * before[r] + next.total[r] * after[r];
    float* into = state.values + r * head_dim;
    const float* from = next.values + r * head_dim;
    for (std::size_t d = 0; d < head_dim; d += lanes) {
      store(into + d, fma(load(from + d), broadcast(after[r]), load(into + d) * broadcast(before[r])));
    }
  }
}

void finish(std::size_t rows, std::size_t head_dim, const AttentionState& state, float* const* out) {
  for (std::size_t r = 0; r < rows; ++r) {
    const FloatVector factor = broadcast(1.0F / state.total[r]);
    for (std::size_t d = 0; d < head_dim; d += lanes) {
      store(out[r] + d, load(state.values + r * head_dim + d) * factor);
    }
  }
}

}  // namespace

const AttentionKernels& attention_kernels() {
  static constexpr AttentionKernels kernels{
      attend<float>, attend<Float16>, attend<BFloat16>, attend<std::int8_t>, pack, merge, finish};
  return kernels;
}

}  // namespace internvl::INTERNVL_ISA
