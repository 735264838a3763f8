#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "check.h"
#include "kernels/gemm/linear.h"
#include "model/experts.h"
#include "random_weights.h"

namespace internvl {
namespace {

constexpr std::size_t hidden = 64;
constexpr std::size_t inner = 96;

DecoderFacts facts_of(std::size_t count, std::size_t chosen, bool normalise) {
  DecoderFacts facts{};
  facts.hidden_size = hidden;
  facts.intermediate_size = inner;
  facts.experts = {count, chosen, normalise};
  return facts;
}

struct Weights {
  test::RandomWeights router;
  test::RandomWeights gate_up;
  test::RandomWeights down;

  Weights(DataType type, std::size_t experts)
      : router(DataType::float32, experts, hidden, 1),
        gate_up(type, experts * 2 * inner, hidden, 2),
        down(type, experts * hidden, inner, 3) {}

  ExpertWeights matrices() const { return {router.matrix, gate_up.matrix, down.matrix}; }
};

std::vector<float> added(const DecoderFacts& facts, const Weights& weights, const std::vector<float>& x,
                         int threads) {
  const std::size_t rows = x.size() / hidden;
  ThreadTeam team(threads);
  const std::size_t row_bytes = LinearWorkspace::row_bytes(
      {weights.down.matrix.type, nullptr, nullptr, 1, std::max(hidden, inner)}, Activations::bfloat16);
  LinearWorkspace workspace(team, rows, row_bytes);
  ExpertMixture mixture(facts, rows);
  std::vector<float> stream = test::random_floats(x.size(), 9);
  const auto multiply = [&](const float* in, std::size_t stride, std::size_t count, const WeightMatrix& w,
                            float* y) {
    linear({in, stride, count, nullptr, false, y, w.rows}, w, team, workspace);
  };
  mixture.add(weights.matrices(), x.data(), rows, multiply, team, instruction_set(), stream.data());
  return stream;
}

// Every token apart, in fp64.
std::vector<double> expected(const DecoderFacts& facts, const Weights& weights, const std::vector<float>& x) {
  const auto [experts, chosen, normalise] = facts.experts;
  const std::vector<float> stream = test::random_floats(x.size(), 9);
  std::vector<double> out(stream.begin(), stream.end());
  const auto dot = [](const double* w, const auto* v, std::size_t n) {
    double sum = 0;
    for (std::size_t i = 0; i < n; ++i) sum += w[i] * static_cast<double>(v[i]);
    return sum;
  };
  for (std::size_t row = 0; row < x.size() / hidden; ++row) {
    const float* token = &x[row * hidden];
    std::vector<double> shares(experts);
    for (std::size_t e = 0; e < experts; ++e) {
      shares[e] = std::exp(dot(&weights.router.exact[e * hidden], token, hidden));
    }
    const double all = std::accumulate(shares.begin(), shares.end(), 0.0);
    std::vector<double> sorted = shares;
    std::sort(sorted.rbegin(), sorted.rend());
    const double best = std::accumulate(sorted.begin(), sorted.begin() + static_cast<int>(chosen), 0.0);
    for (std::size_t e = 0; e < experts; ++e) {
      if (shares[e] < sorted[chosen - 1]) continue;
      std::vector<double> gated(inner);
      for (std::size_t i = 0; i < inner; ++i) {
        const double* rows = &weights.gate_up.exact[e * 2 * inner * hidden];
        const double gate = dot(rows + i * hidden, token, hidden);
        gated[i] = gate / (1 + std::exp(-gate)) * dot(rows + (inner + i) * hidden, token, hidden);
      }
      for (std::size_t j = 0; j < hidden; ++j) {
        const double* down = &weights.down.exact[(e * hidden + j) * inner];
        out[row * hidden + j] += shares[e] / (normalise ? best : all) * dot(down, gated.data(), inner);
      }
    }
  }
  return out;
}

TEST("every token gets what its experts make of it, for every weight type") {
  for (const DataType type : test::weight_types) {
    for (const bool normalise : {false, true}) {
      const DecoderFacts facts = facts_of(7, 3, normalise);
      const Weights weights(type, 7);
      const std::vector<float> x = test::random_floats(21 * hidden, 4, 0.3F);
      const std::vector<float> found = added(facts, weights, x, 2);
      const std::vector<double> wanted = expected(facts, weights, x);
      double squares = 0;
      double found_squares = 0;
      double product = 0;
      for (std::size_t i = 0; i < found.size(); ++i) {
        const double value = found[i];
        squares += wanted[i] * wanted[i];
        found_squares += value * value;
        product += value * wanted[i];
      }
      if (activations_for(type, instruction_set()) == Activations::bfloat16) {
        CHECK(product >= 0.9999 * std::sqrt(squares * found_squares));
        continue;
      }
      const double size = std::sqrt(squares / static_cast<double>(wanted.size()));
      for (std::size_t i = 0; i < found.size(); ++i) {
        CHECK(std::abs(static_cast<double>(found[i]) - wanted[i]) < 1e-4 * size);
      }
    }
  }
}

TEST("a token gets the same bits alone and in company, from any number of threads") {
  const DecoderFacts facts = facts_of(7, 3, true);
  for (const DataType type : {DataType::bfloat16, DataType::int4}) {
    const Weights weights(type, 7);
    const std::vector<float> x = test::random_floats(21 * hidden, 4, 0.3F);
    const std::vector<float> together = added(facts, weights, x, 3);
    CHECK(together == added(facts, weights, x, 1));
    const std::vector<float> first(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(hidden));
    const std::vector<float> alone = added(facts, weights, first, 2);
    CHECK(std::equal(alone.begin(), alone.end(), together.begin()));
  }
}

TEST("all experts, one expert, and numbers of them that cannot be") {
  const std::vector<float> x = test::random_floats(5 * hidden, 4, 0.3F);
  for (const std::size_t chosen : {std::size_t{1}, std::size_t{4}}) {
    const DecoderFacts facts = facts_of(4, chosen, false);
    const Weights weights(DataType::float32, 4);
    const std::vector<float> found = added(facts, weights, x, 2);
    const std::vector<double> wanted = expected(facts, weights, x);
    for (std::size_t i = 0; i < found.size(); ++i) {
      CHECK(std::abs(static_cast<double>(found[i]) - wanted[i]) < 1e-3);
    }
  }
  CHECK_THROWS(BundleError, ExpertMixture(facts_of(4, 0, true), 8));
  CHECK_THROWS(BundleError, ExpertMixture(facts_of(4, 5, true), 8));
}

}  // namespace
}  // namespace internvl

int main() { return internvl::test::run_all(); }
