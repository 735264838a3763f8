// The MLP of a mixture-of-experts layer (Qwen3-MoE): of many small MLPs, a router chooses a few for each
// token.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/gemm/weight_matrix.h"
#include "model/decoder_facts.h"
#include "runtime/function_ref.h"
#include "runtime/instruction_set.h"
#include "runtime/thread_team.h"

namespace internvl {

// The matrices of all experts, one below the other.
struct ExpertWeights {
  WeightMatrix router;   // [experts, hidden]
  WeightMatrix gate_up;  // [experts * 2 * inner, hidden]
  WeightMatrix down;     // [experts * hidden, inner]
};

// Rows [first, first + count) of a matrix, where it lies.
WeightMatrix rows_of(const WeightMatrix& w, std::size_t first, std::size_t count);

// Computes the chosen experts only, each once for all of its tokens.
//
// What a token gets depends on that token alone, bit for bit: its experts are added in the order of their
// numbers.
class ExpertMixture {
 public:
  // y [rows, w.rows] = x W^T for x [rows, w.columns] at a distance of x_stride.
  using Multiply = FunctionRef<void(const float* x, std::size_t x_stride, std::size_t rows,
                                    const WeightMatrix& w, float* y)>;

  // For up to `most_rows` tokens at a time. Throws BundleError if the facts are impossible.
  ExpertMixture(const DecoderFacts& facts, std::size_t most_rows);

  // Adds to stream [rows, hidden] what the experts make of x [rows, hidden].
  void add(const ExpertWeights& weights, const float* x, std::size_t rows, Multiply multiply,
           ThreadTeam& team, InstructionSet set, float* stream);

 private:
  // A token that an expert computes, and how much of the result counts.
  struct Share {
    std::uint32_t row;
    float weight;
  };

  // Fills shares_, the tokens of each expert in their order.
  void route(std::size_t rows, ThreadTeam& team);

  ExpertFacts facts_;
  std::size_t hidden_;
  std::size_t inner_;
  std::vector<float> likings_;              // [rows, experts]
  std::vector<std::uint32_t> chosen_;       // [rows, chosen]
  std::vector<float> weights_;              // [rows, chosen]
  std::vector<std::vector<Share>> shares_;  // of each expert
  std::vector<float> tokens_;               // [rows, hidden] of one expert
  std::vector<float> gate_up_;              // [rows, 2 * inner]
  std::vector<float> results_;              // [rows, hidden]
};

}  // namespace internvl
