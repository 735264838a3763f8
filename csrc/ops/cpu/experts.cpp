#include "ops/cpu/experts.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "ops/weights.h"
#include "runtime/error.h"

namespace internvl {

ExpertMixture::ExpertMixture(const MixtureShape& shape, std::size_t most_rows) : shape_(shape) {
  if (shape_.chosen == 0 || shape_.chosen > shape_.experts) {
    throw BundleError("the manifest chooses " + std::to_string(shape_.chosen) + " of " +
                      std::to_string(shape_.experts) + " experts; expected 1 to " +
                      std::to_string(shape_.experts) + ". Export the bundle again.");
  }
  normed_.resize(most_rows * shape_.hidden);
  router_logits_.resize(most_rows * shape_.experts);
  chosen_.resize(most_rows * shape_.chosen);
  weights_.resize(most_rows * shape_.chosen);
  shares_.resize(shape_.experts);
  gate_up_.resize(most_rows * 2 * shape_.inner);
  results_.resize(most_rows * shape_.hidden);
}

void ExpertMixture::route(std::size_t rows, ThreadTeam& team) {
  team.for_each_range(rows, row_grain, [&](std::size_t begin, std::size_t end) {
    std::vector<std::uint32_t> order(shape_.experts);
    for (std::size_t row = begin; row < end; ++row) {
      const float* logits = &router_logits_[row * shape_.experts];
      std::iota(order.begin(), order.end(), 0U);
      const auto better = [&](std::uint32_t a, std::uint32_t b) {
        return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
      };
      const auto last = order.begin() + static_cast<std::ptrdiff_t>(shape_.chosen);
      std::partial_sort(order.begin(), last, order.end(), better);
      const float most = logits[order[0]];
      // Shares of all experts, or of the chosen ones.
      const std::size_t counted = shape_.normalise ? shape_.chosen : shape_.experts;
      float total = 0;
      for (std::size_t i = 0; i < counted; ++i) total += std::exp(logits[order[i]] - most);
      std::sort(order.begin(), last);
      for (std::size_t i = 0; i < shape_.chosen; ++i) {
        chosen_[row * shape_.chosen + i] = order[i];
        weights_[row * shape_.chosen + i] = std::exp(logits[order[i]] - most) / total;
      }
    }
  });
  for (std::vector<Share>& shares : shares_) shares.clear();
  for (std::size_t i = 0; i < rows * shape_.chosen; ++i) {
    shares_[chosen_[i]].push_back({static_cast<std::uint32_t>(i / shape_.chosen), weights_[i]});
  }
}

void ExpertMixture::add(const ExpertWeights& weights, std::size_t count, Matmul& matmul, ThreadTeam& team,
                        float* stream) {
  const std::size_t hidden = shape_.hidden;
  const std::size_t inner = shape_.inner;
  matmul.multiply({normed_.data(), hidden, count, nullptr, false, router_logits_.data(), shape_.experts},
                  weights.router);
  route(count, team);
  for (std::size_t expert = 0; expert < shape_.experts; ++expert) {
    const std::vector<Share>& shares = shares_[expert];
    if (shares.empty()) continue;
    const auto chosen = [&](std::size_t i, float* out) {
      std::copy_n(&normed_[shares[i].row * hidden], hidden, out);
    };
    matmul.multiply_gated(chosen, rows_of(weights.gate_up, expert * 2 * inner, 2 * inner),
                          rows_of(weights.down, expert * hidden, hidden),
                          {gate_up_.data(), shares.size() * 2 * inner},
                          {nullptr, 0, shares.size(), nullptr, false, results_.data(), hidden});
    for (std::size_t i = 0; i < shares.size(); ++i) {
      const float* result = &results_[i * hidden];
      float* out = stream + shares[i].row * hidden;
      for (std::size_t j = 0; j < hidden; ++j) out[j] += shares[i].weight * result[j];
    }
  }
}

}  // namespace internvl
