#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "check.h"
#include "kernels/attention/attention.h"
#include "ops/cpu/kv_storage.h"
#include "random_weights.h"
#include "runtime/tile_unit.h"

namespace internvl {
namespace {

constexpr CacheType cache_types[] = {CacheType::float32, CacheType::float16, CacheType::bfloat16,
                                     CacheType::int8};

bool in_bfloat16(CacheType type) {
  return (type == CacheType::bfloat16 || type == CacheType::int8) && attends_in_bfloat16(features());
}

float rounded_to_bfloat16(float x) {
  if (x == 0) return 0;
  const int unit = std::ilogb(x) - 7;
  return static_cast<float>(std::ldexp(std::nearbyint(std::ldexp(static_cast<double>(x), -unit)), unit));
}

// Where elements lie in a block.
std::size_t key_place(CacheType type, std::size_t token, std::size_t d) {
  const bool pairs = type == CacheType::bfloat16 || type == CacheType::int8;
  return pairs ? (d / 2 * cache_block + token) * 2 + d % 2 : d * cache_block + token;
}
std::size_t value_place(CacheType type, std::size_t token, std::size_t d, std::size_t head_dim) {
  const bool pairs = type == CacheType::bfloat16 || type == CacheType::int8;
  const std::size_t width = value_width(head_dim);
  return head_dim * cache_block + (pairs ? (token / 2 * width + d) * 2 + token % 2 : token * width + d);
}

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
  return static_cast<float>(read(std::int8_t{0}, i)) * read(0.0F, attention_block_elements(d) + 4 * scale);
}

ThreadTeam& one_thread() {
  static ThreadTeam team(1);
  return team;
}

// Keys and values of one sequence in a cache of one layer, and the same numbers as plain rows.
struct Context {
  CacheType type;
  std::size_t head_dim, length;
  KvStorage storage;
  std::size_t blocks;
  std::vector<float> keys, values;  // [length, head_dim]

  Context(CacheType kind, std::size_t d, std::size_t n, float size = 1.0F)
      : type(kind),
        head_dim(d),
        length(n),
        storage({kind, 1, 1, 1, d, (n + cache_block - 1) / cache_block}, one_thread()),
        blocks((n + cache_block - 1) / cache_block),
        keys(test::random_floats(n * d, 1, size)),
        values(test::random_floats(n * d, 2)) {
    // What lies behind the sequence must not matter.
    const std::vector<float> poison(d, NAN);
    for (std::size_t i = 0; i < blocks * cache_block; ++i) {
      storage.write(block_of(i), i % cache_block, 0, 0, {poison.data(), poison.data(), d, 1, d});
    }
    // In pieces of every size.
    for (std::size_t i = 0, piece = 1; i < n; piece = piece % 40 + 1) {
      const std::size_t count = std::min({piece, n - i, cache_block - i % cache_block});
      storage.write(block_of(i), i % cache_block, 0, 0, {&keys[i * d], &values[i * d], d, count, d});
      i += count;
    }
    // The numbers that the cache holds, so that one reference serves every type; test_kv_storage.cpp says how
    // near they are.
    for (std::size_t i = 0; i < n; ++i) {
      const std::byte* place = storage.head(block_of(i), 0, 0);
      for (std::size_t j = 0; j < d; ++j) {
        const std::size_t slot = i % cache_block;
        keys[i * d + j] = stored(type, place, d, key_place(type, slot, j), slot);
        values[i * d + j] = stored(type, place, d, value_place(type, slot, j, d), cache_block + slot);
      }
    }
  }

  static BlockId block_of(std::size_t token) { return static_cast<BlockId>(token / cache_block); }
};

struct State {
  std::vector<float> greatest, total, values;
  State(std::size_t rows, std::size_t d) : greatest(rows), total(rows), values(rows * value_width(d), NAN) {}
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
  const TileRegion tiles;  // the kernel is called directly, outside of a team's regions
  for (std::size_t first = 0; first < context.blocks; first += span_blocks) {
    std::vector<const std::byte*> span;
    for (std::size_t b = first; b < std::min(first + span_blocks, context.blocks); ++b) {
      span.push_back(context.storage.head(static_cast<BlockId>(b), 0, 0));
    }
    State next(rows, d);
    context.storage.kernels().attend(job, span.data(), first * cache_block, span.size(),
                                     (first == 0 ? state : next).view());
    if (first > 0) kernels.merge(rows, d, state.view(), next.view());
  }
  kernels.finish(rows, d, state.view(), out_rows.data());
  return out;
}

// Holds `rows` queries over n keys against a softmax in fp64.
void check_attention(CacheType type, std::size_t d, std::size_t n, std::size_t rows, float key_size) {
  const Context context(type, d, n, key_size);
  std::vector<float> queries = test::random_floats(rows * d, 3);
  std::vector<std::size_t> visible;
  for (std::size_t r = 0; r < rows; ++r) visible.push_back(n > rows ? n - rows + r + 1 : std::min(r + 1, n));
  const std::vector<float> out = attended(context, queries, visible);
  const double unit = std::ldexp(1.0, -24);
  // Of a weight that is rounded to bf16, and of its exponential.
  const double weight_unit = in_bfloat16(type) ? std::ldexp(1.0, -9) + std::ldexp(1.0, -17) : 0;
  if (in_bfloat16(type)) {
    for (float& query : queries) query = rounded_to_bfloat16(query);
  }
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
    const double bound =
        2 * (2 * (2.0 * static_cast<double>(d) + 6) * unit * size + (chain + 2) * unit + weight_unit);
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
  for (const CacheType type : cache_types) {
    for (const std::size_t d : {24, 64}) {
      const std::size_t n = 700;
      const Context context(type, d, n, 3.0F);
      const std::vector<float> queries = test::random_floats(attention_rows * d, 3);
      std::vector<std::size_t> visible;
      // Odd and even numbers of keys, across blocks and a span.
      for (std::size_t r = 0; r < attention_rows; ++r) visible.push_back(470 + r + r * r / 8);
      const std::vector<float> all = attended(context, queries, visible);
      for (const std::size_t some : {1, 2, 5, 7, 13}) {
        for (std::size_t r = 0; r + some <= attention_rows; r += some) {
          const auto begin = queries.begin() + static_cast<std::ptrdiff_t>(r * d);
          const auto first = visible.begin() + static_cast<std::ptrdiff_t>(r);
          const std::vector<float> alone =
              attended(context, {begin, begin + static_cast<std::ptrdiff_t>(some * d)},
                       {first, first + static_cast<std::ptrdiff_t>(some)});
          CHECK(std::memcmp(alone.data(), &all[r * d], some * d * sizeof(float)) == 0);
        }
      }
    }
  }
}

TEST("a NaN in one query stays in its row") {
  for (const CacheType type : cache_types) {
    const Context context(type, 64, 70);
    std::vector<float> queries = test::random_floats(32 * 64, 3);
    queries[5 * 64 + 63] = NAN;
    const std::vector<float> found = attended(context, queries, std::vector<std::size_t>(32, 70));
    for (std::size_t i = 0; i < found.size(); ++i) CHECK(std::isnan(found[i]) == (i / 64 == 5));
  }
}

TEST("the tower attends in bf16 beside weights in bf16 and integers, where pairs of bf16 are multiplied") {
  for (const std::string_view name : available_instruction_sets()) {
    const Features features = *features_of(name);
    const bool pairs = features.has(Feature::avx512_bf16);
    CHECK(attends_in_bfloat16(DataType::bfloat16, features) == pairs);
    CHECK(attends_in_bfloat16(DataType::int8, features) == pairs);
    CHECK(!attends_in_bfloat16(DataType::float16, features));
    CHECK(!attends_in_bfloat16(DataType::float32, features));
  }
}

}  // namespace
}  // namespace internvl

int main() { return internvl::test::run_all(); }
