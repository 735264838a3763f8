#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "check.h"
#include "kernels/attention/attention.h"
#include "kernels/attention/bfloat16_attention.h"
#include "random_weights.h"

namespace internvl {
namespace {

// Queries, keys and values of one head as the tower has them: beside each other in rows.
struct Head {
  std::size_t tokens, head_dim;
  std::vector<float> qkv;  // [tokens, 3 * head_dim]

  Head(std::size_t n, std::size_t d, float size)
      : tokens(n), head_dim(d), qkv(test::random_floats(n * 3 * d, 7, size)) {}
  std::size_t stride() const { return 3 * head_dim; }
  float scale() const { return 1 / std::sqrt(static_cast<float>(head_dim)); }

  std::vector<BFloat16> packed() const {
    // Anything may stand in the memory before.
    std::vector<BFloat16> memory(bfloat16_attention_elements(tokens, head_dim), BFloat16{0x7FC0});
    bfloat16_attention_kernels(features())
        .pack(&qkv[head_dim], &qkv[2 * head_dim], stride(), tokens, head_dim, memory.data());
    return memory;
  }
};

// Queries [first, last) in calls of at most `rows`.
std::vector<float> attended(const Head& head, const std::vector<BFloat16>& packed, std::size_t first,
                            std::size_t last, std::size_t rows) {
  const BFloat16AttentionKernels& kernels = bfloat16_attention_kernels(features());
  const std::size_t stride = head.head_dim + 3;
  std::vector<float> out((last - first) * stride, -7.0F);
  for (std::size_t row = first; row < last; row += rows) {
    kernels.attend(&head.qkv[row * head.stride()], head.stride(), std::min(rows, last - row), packed.data(),
                   head.tokens, head.head_dim, head.scale(), &out[(row - first) * stride], stride);
  }
  std::vector<float> plain;
  for (std::size_t r = 0; r < last - first; ++r) {
    const auto begin = out.begin() + static_cast<std::ptrdiff_t>(r * stride);
    plain.insert(plain.end(), begin, begin + static_cast<std::ptrdiff_t>(head.head_dim));
    for (std::size_t i = head.head_dim; i < stride; ++i) CHECK(out[r * stride + i] == -7.0F);
  }
  return plain;
}

double rounded(float x) {
  if (x == 0) return 0;
  const int unit = std::ilogb(x) - 7;
  return std::ldexp(std::nearbyint(std::ldexp(static_cast<double>(x), -unit)), unit);
}

const std::size_t dims[] = {8, 24, 64, 128, 256};
const std::size_t lengths[] = {1, 2, 15, 16, 17, 63, 64, 65, 129, 200};

TEST(
    "attention in bf16 is a plain fp64 softmax of rounded queries, keys and values but for its own "
    "rounding") {
  for (const std::size_t d : dims) {
    for (const std::size_t n : lengths) {
      // Scores of moderate size, and such that one key takes nearly all.
      for (const float size : {1.0F, 8.0F}) {
        const Head head(n, d, size);
        const std::vector<float> found = attended(head, head.packed(), 0, n, bfloat16_attention_rows);
        std::vector<double> scores(n);
        for (std::size_t row = 0; row < n; ++row) {
          const float* q = &head.qkv[row * head.stride()];
          double slack = 0;
          for (std::size_t key = 0; key < n; ++key) {
            const float* k = &head.qkv[key * head.stride() + d];
            double magnitude = 0;
            scores[key] = 0;
            for (std::size_t i = 0; i < d; ++i) {
              scores[key] += rounded(q[i]) * rounded(k[i]) * head.scale();
              magnitude += std::abs(rounded(q[i]) * rounded(k[i])) * head.scale();
            }
            slack = std::max(slack, magnitude);
          }
          const double greatest = *std::max_element(scores.begin(), scores.end());
          double total = 0;
          for (double& score : scores) total += score = std::exp(score - greatest);
          // Sums of a score's products, its scaling and the exponent; the weight rounded to bf16; sums over
          // keys and their corrections, block by block.
          const double exponent = (static_cast<double>(d) + 4) * std::ldexp(2 * slack, -24);
          const double bound = exponent * 1.1 + std::ldexp(1.0, -8) +
                               (2.0 * static_cast<double>(n) + 16) * std::ldexp(1.0, -24);
          for (std::size_t i = 0; i < d; ++i) {
            double sum = 0;
            double magnitude = 0;
            for (std::size_t key = 0; key < n; ++key) {
              const double value = rounded(head.qkv[key * head.stride() + 2 * d + i]);
              sum += scores[key] / total * value;
              magnitude += scores[key] / total * std::abs(value);
            }
            const double error = std::abs(found[row * d + i] - sum);
            CHECK(error <= bound * magnitude + 1.1 * exponent * std::abs(sum) + 1e-30);
          }
        }
      }
    }
  }
}

TEST("in bf16, what becomes of a query is the same bits whatever other queries are computed with it") {
  for (const std::size_t d : {std::size_t{24}, std::size_t{64}}) {
    const Head head(200, d, 2.0F);
    const std::vector<BFloat16> packed = head.packed();
    const std::vector<float> all = attended(head, packed, 0, 200, bfloat16_attention_rows);
    for (const std::size_t rows : {1, 2, 5, 6, 7, 13}) {
      const std::vector<float> some = attended(head, packed, 3, 120, rows);
      CHECK(std::memcmp(some.data(), &all[3 * d], some.size() * sizeof(float)) == 0);
    }
  }
}

TEST("in bf16, a NaN in one query stays in its row") {
  Head head(70, 64, 1.0F);
  head.qkv[5 * head.stride() + 63] = NAN;
  const std::vector<float> found = attended(head, head.packed(), 0, 70, bfloat16_attention_rows);
  for (std::size_t i = 0; i < found.size(); ++i) CHECK(std::isnan(found[i]) == (i / 64 == 5));
}

TEST("attention is in bf16 beside weights in bf16 and integers, where pairs of bf16 are multiplied") {
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
