// The MLP of a mixture-of-experts layer (Qwen3-MoE): of many small MLPs, a router chooses a few for each
// token.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/matmul/weight_matrix.h"
#include "ops/cpu/matmul.h"
#include "ops/ops.h"
#include "runtime/features.h"
#include "runtime/thread_team.h"

namespace internvl {

// The matrices of all experts, one below the other.
struct ExpertWeights {
  WeightMatrix router;   // [experts, hidden]
  WeightMatrix gate_up;  // [experts * 2 * inner, hidden]
  WeightMatrix down;     // [experts * hidden, inner]
};

// Computes the chosen experts only, each once for all of its tokens.
//
// What a token gets depends on that token alone, bit for bit: its experts are added in the order of their
// numbers.
class ExpertMixture {
 public:
  // For up to `most_rows` tokens at a time. Throws BundleError if no such choice is possible.
  ExpertMixture(const MixtureShape& shape, std::size_t most_rows);

  // Memory for the rows that go into add(), [most_rows, hidden].
  float* rows() { return normed_.data(); }
  // Adds to stream [count, hidden] what the experts make of the first `count` of rows().
  void add(const ExpertWeights& weights, std::size_t count, Matmul& matmul, ThreadTeam& team, float* stream);

 private:
  // A token that an expert computes, and how much of the result counts.
  struct Share {
    std::uint32_t row;
    float weight;
  };

  // Fills shares_, the tokens of each expert in their order.
  void route(std::size_t rows, ThreadTeam& team);

  MixtureShape shape_;
  std::vector<float> normed_;               // [rows, hidden]
  std::vector<float> router_logits_;        // [rows, experts]
  std::vector<std::uint32_t> chosen_;       // [rows, chosen]
  std::vector<float> weights_;              // [rows, chosen]
  std::vector<std::vector<Share>> shares_;  // of each expert
  std::vector<float> gate_up_;              // [rows, 2 * inner]
  std::vector<float> results_;              // [rows, hidden]
};

}  // namespace internvl
