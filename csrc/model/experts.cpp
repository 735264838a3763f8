#include "model/experts.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "kernels/activation/activation.h"
#include "runtime/error.h"
#include "runtime/weight_file.h"

namespace internvl {
namespace {

constexpr std::size_t row_grain = 8;
constexpr std::size_t int4_block = 32;

const std::byte* scales_from(const WeightMatrix& w, std::size_t first) {
  if (w.scales == nullptr) return nullptr;
  const std::size_t bytes = w.type == DataType::int8 ? sizeof(float) : w.columns / int4_block * 2;
  return w.scales + first * bytes;
}

}  // namespace

WeightMatrix rows_of(const WeightMatrix& w, std::size_t first, std::size_t count) {
  return {w.type, w.values + first * byte_size(w.type, w.columns), scales_from(w, first), count, w.columns};
}

ExpertMixture::ExpertMixture(const DecoderFacts& facts, std::size_t most_rows)
    : facts_(facts.experts), hidden_(facts.hidden_size), inner_(facts.intermediate_size) {
  if (facts_.chosen == 0 || facts_.chosen > facts_.count) {
    throw BundleError("the manifest chooses " + std::to_string(facts_.chosen) + " of " +
                      std::to_string(facts_.count) + " experts; expected 1 to " +
                      std::to_string(facts_.count) + ". Export the bundle again.");
  }
  likings_.resize(most_rows * facts_.count);
  chosen_.resize(most_rows * facts_.chosen);
  weights_.resize(most_rows * facts_.chosen);
  shares_.resize(facts_.count);
  tokens_.resize(most_rows * hidden_);
  gate_up_.resize(most_rows * 2 * inner_);
  results_.resize(most_rows * hidden_);
}

void ExpertMixture::route(std::size_t rows, ThreadTeam& team) {
  team.for_each_range(rows, row_grain, [&](std::size_t begin, std::size_t end) {
    std::vector<std::uint32_t> order(facts_.count);
    for (std::size_t row = begin; row < end; ++row) {
      float* likings = &likings_[row * facts_.count];
      std::iota(order.begin(), order.end(), 0U);
      const auto better = [&](std::uint32_t a, std::uint32_t b) {
        return likings[a] > likings[b] || (likings[a] == likings[b] && a < b);
      };
      const auto last = order.begin() + static_cast<std::ptrdiff_t>(facts_.chosen);
      std::partial_sort(order.begin(), last, order.end(), better);
      const float most = likings[order[0]];
      // Shares of all experts, or of the chosen ones.
      const std::size_t counted = facts_.normalise ? facts_.chosen : facts_.count;
      float total = 0;
      for (std::size_t i = 0; i < counted; ++i) total += std::exp(likings[order[i]] - most);
      std::sort(order.begin(), last);
      for (std::size_t i = 0; i < facts_.chosen; ++i) {
        chosen_[row * facts_.chosen + i] = order[i];
        weights_[row * facts_.chosen + i] = std::exp(likings[order[i]] - most) / total;
      }
    }
  });
  for (std::vector<Share>& shares : shares_) shares.clear();
  for (std::size_t i = 0; i < rows * facts_.chosen; ++i) {
    shares_[chosen_[i]].push_back({static_cast<std::uint32_t>(i / facts_.chosen), weights_[i]});
  }
}

void ExpertMixture::add(const ExpertWeights& weights, const float* x, std::size_t rows, Multiply multiply,
                        ThreadTeam& team, InstructionSet set, float* stream) {
  const ActivationKernels& activation = activation_kernels(set);
  multiply(x, hidden_, rows, weights.router, likings_.data());
  route(rows, team);
  for (std::size_t expert = 0; expert < facts_.count; ++expert) {
    const std::vector<Share>& shares = shares_[expert];
    if (shares.empty()) continue;
    for (std::size_t i = 0; i < shares.size(); ++i) {
      std::copy_n(x + shares[i].row * hidden_, hidden_, &tokens_[i * hidden_]);
    }
    multiply(tokens_.data(), hidden_, shares.size(),
             rows_of(weights.gate_up, expert * 2 * inner_, 2 * inner_), gate_up_.data());
    team.for_each_range(shares.size(), row_grain, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) {
        float* gate = &gate_up_[i * 2 * inner_];
        activation.silu_multiply(gate, gate + inner_, inner_, gate);
      }
    });
    multiply(gate_up_.data(), 2 * inner_, shares.size(), rows_of(weights.down, expert * hidden_, hidden_),
             results_.data());
    for (std::size_t i = 0; i < shares.size(); ++i) {
      const float* result = &results_[i * hidden_];
      float* out = stream + shares[i].row * hidden_;
      for (std::size_t j = 0; j < hidden_; ++j) out[j] += shares[i].weight * result[j];
    }
  }
}

}  // namespace internvl
