#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "check.h"
#include "kernels/attention/attention.h"
#include "ops/cpu/kv_storage.h"
#include "random_weights.h"

namespace internvl {
namespace {

constexpr CacheType cache_types[] = {CacheType::float32, CacheType::float16, CacheType::bfloat16,
                                     CacheType::int8};

// Element i of a head's keys and values, in int8 times scale number `scale`.
float stored(CacheType type, const std::byte* place, std::size_t d, std::size_t i, std::size_t scale) {
  const auto read = [&](auto value, std::size_t at) {
    std::memcpy(&value, place + at, sizeof(value));
    return value;
  };
  switch (type) {
    case CacheType::float32:
      return read(0.0F, 4 * i);
    case CacheType::float16:
      return static_cast<float>(test::half_value(read(std::uint16_t{0}, 2 * i)));
    case CacheType::bfloat16:
      return static_cast<float>(test::bfloat_value(read(std::uint16_t{0}, 2 * i)));
    case CacheType::int8:
      break;
  }
  return static_cast<float>(read(std::int8_t{0}, i)) * read(0.0F, 2 * d * cache_block + 4 * scale);
}

ThreadTeam& one_thread() {
  static ThreadTeam team(1);
  return team;
}

// Keys and values of one sequence in a cache of one layer, and the same numbers as plain rows.
struct Context {
  std::size_t head_dim, length;
  KvStorage storage;
  std::size_t blocks;
  std::vector<float> keys, values;  // [length, head_dim]

  Context(CacheType type, std::size_t d, std::size_t n, float size = 1.0F)
      : head_dim(d),
        length(n),
        storage({type, 1, 1, 1, d, (n + cache_block - 1) / cache_block}, one_thread()),
        blocks((n + cache_block - 1) / cache_block),
        keys(test::random_floats(n * d, 1, size)),
        values(test::random_floats(n * d, 2)) {
    for (std::size_t i = 0; i < n; ++i) {
      storage.write(block_of(i), i % cache_block, 0, 0, &keys[i * d], &values[i * d]);
    }
    // The numbers that the cache holds, so that one reference serves every type; test_kv_storage.cpp says how
    // near they are.
    for (std::size_t i = 0; i < n; ++i) {
      const std::byte* place = storage.keys(block_of(i), 0, 0);
      for (std::size_t j = 0; j < d; ++j) {
        const std::size_t slot = i % cache_block;
        keys[i * d + j] = stored(type, place, d, j * cache_block + slot, slot);
        values[i * d + j] = stored(type, place, d, d * cache_block + slot * d + j, cache_block + slot);
      }
    }
    // What lies behind the sequence must not matter.
    for (std::size_t i = n; i % cache_block != 0; ++i) {
      const std::vector<float> poison(d, NAN);
      storage.write(block_of(i), i % cache_block, 0, 0, poison.data(), poison.data());
    }
  }

  static BlockId block_of(std::size_t token) { return static_cast<BlockId>(token / cache_block); }
};

struct State {
  std::vector<float> greatest, total, values;
  State(std::size_t rows, std::size_t d) : greatest(rows), total(rows), values(rows * d) {}
  AttentionState view() { return {greatest.data(), total.data(), values.data()}; }
};

// Rows i of queries see visible[i] keys.
std::vector<float> attended(const Context& context, const std::vector<float>& queries,
                            const std::vector<std::size_t>& visible) {
  const AttentionKernels& kernels = attention_kernels(features());
  const std::size_t d = context.head_dim;
  const std::size_t rows = visible.size();
  std::vector<float> out(rows * d);
  std::vector<const float*> query_rows;
  std::vector<float*> out_rows;
  for (std::size_t r = 0; r < rows; ++r) {
    query_rows.push_back(&queries[r * d]);
    out_rows.push_back(&out[r * d]);
  }
  const QueryRows job{rows, query_rows.data(), visible.data(), d, 1 / std::sqrt(static_cast<float>(d))};
  State state(rows, d);
  for (std::size_t first = 0; first < context.blocks; first += span_blocks) {
    std::vector<const std::byte*> span;
    for (std::size_t b = first; b < std::min(first + span_blocks, context.blocks); ++b) {
      span.push_back(context.storage.keys(static_cast<BlockId>(b), 0, 0));
    }
    State next(rows, d);
    const AttentionKernels::Attend attends[] = {kernels.attend_float32, kernels.attend_float16,
                                                kernels.attend_bfloat16, kernels.attend_int8};
    attends[static_cast<int>(context.storage.type())](job, span.data(), first * cache_block, span.size(),
                                                      (first == 0 ? state : next).view());
    if (first > 0) kernels.merge(rows, d, state.view(), next.view());
  }
  kernels.finish(rows, d, state.view(), out_rows.data());
  return out;
}

// Holds `rows` queries over n keys against a softmax in fp64.
void check_attention(CacheType type, std::size_t d, std::size_t n, std::size_t rows, float key_size) {
  const Context context(type, d, n, key_size);
  const std::vector<float> queries = test::random_floats(rows * d, 3);
  std::vector<std::size_t> visible;
  for (std::size_t r = 0; r < rows; ++r) visible.push_back(n > rows ? n - rows + r + 1 : std::min(r + 1, n));
  const std::vector<float> out = attended(context, queries, visible);
  const double unit = std::ldexp(1.0, -24);
  const double scale = 1 / std::sqrt(static_cast<double>(d));
  for (std::size_t r = 0; r < rows; ++r) {
    std::vector<double> weights;
    double greatest = -INFINITY;
    double size = 0;  // of the products that a score sums
    for (std::size_t i = 0; i < visible[r]; ++i) {
      double score = 0;
      double sum = 0;
      for (std::size_t j = 0; j < d; ++j) {
        const double product = static_cast<double>(queries[r * d + j]) * context.keys[i * d + j];
        score += product;
        sum += std::abs(product);
      }
      weights.push_back(score * scale);
      greatest = std::max(greatest, score * scale);
      size = std::max(size, sum * scale);
    }
    double total = 0;
    for (double& weight : weights) total += weight = std::exp(weight - greatest);
    // int8's scales round once more in the reference, the score and the weight. An error e of the scores
    // changes weights by a factor within exp(2 e), and the total as much; the sums over keys and blocks and
    // the exponentials add their own roundings.
    const double chain = 2.0 * cache_block + 8.0 * static_cast<double>(n / cache_block + 1) + 24;
    const double bound = 2 * (2 * (2.0 * static_cast<double>(d) + 4) * unit * size + (chain + 2) * unit);
    for (std::size_t j = 0; j < d; ++j) {
      double exact = 0;
      double sum = 0;
      for (std::size_t i = 0; i < visible[r]; ++i) {
        exact += weights[i] / total * context.values[i * d + j];
        sum += weights[i] / total * std::abs(context.values[i * d + j]);
      }
      CHECK(std::abs(out[r * d + j] - exact) <= bound * sum + 1e-30);
    }
  }
}

TEST("attention is within its rounding bound of a plain fp64 softmax") {
  for (const CacheType type : cache_types) {
    for (const std::size_t d : {8, 24, 32, 64, 96, 128, 256}) {
      for (const std::size_t n : {1, 2, 63, 64, 65, 200}) {
        for (const std::size_t rows : {1, 7, 32}) check_attention(type, d, n, rows, 1.0F);
      }
    }
    // Peaked distributions, and more than one span.
    for (const std::size_t d : {24, 64}) {
      for (const std::size_t n : {512, 513, 1100}) check_attention(type, d, n, 5, 12.0F);
    }
  }
}

TEST("a query's result is the same bits whatever other queries are computed with it") {
  const std::size_t d = 64;
  const std::size_t n = 700;
  const Context context(CacheType::float32, d, n);
  const std::vector<float> queries = test::random_floats(32 * d, 3);
  std::vector<std::size_t> visible;
  for (std::size_t r = 0; r < 32; ++r) visible.push_back(490 + 2 * r);  // across blocks and a span
  const std::vector<float> all = attended(context, queries, visible);
  for (std::size_t r = 0; r < 32; ++r) {
    const std::vector<float> one(queries.begin() + r * d, queries.begin() + (r + 1) * d);
    const std::vector<float> alone = attended(context, one, {visible[r]});
    for (std::size_t j = 0; j < d; ++j) CHECK(alone[j] == all[r * d + j]);
  }
}

}  // namespace
}  // namespace internvl

int main() { return internvl::test::run_all(); }
