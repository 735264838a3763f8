// The angles of rotary position embedding.
#pragma once

#include <cstddef>
#include <vector>

namespace internvl {

// The frequencies are theta^(-2j/d), each divided by its own factor.
struct RopeFacts {
  double theta;
  bool dynamic;   // dynamic NTK scaling beyond max_positions
  double factor;  // of the dynamic scaling
  std::size_t max_positions;
  // Their {} let the members be left out of an initialiser, in the eyes of GCC.
  // NOLINTBEGIN(readability-redundant-member-init)
  std::vector<double> short_factors{};  // [head_dim / 2]; empty: ones
  std::vector<double> long_factors{};   // instead, of sequences beyond original_positions; empty: none
  // NOLINTEND(readability-redundant-member-init)
  std::size_t original_positions = 0;
  double attention_factor = 1.0;  // multiplies cosines and sines

  // Which frequencies a sequence of so many tokens has: those of equal numbers have the same.
  std::size_t frequencies_of(std::size_t tokens) const {
    if (dynamic && tokens > max_positions) return tokens;
    return !long_factors.empty() && tokens > original_positions ? 1 : 0;
  }

  // Tokens of the longest sequence that the model is made for.
  std::size_t longest_context() const {
    const auto trained = static_cast<double>(max_positions);
    return dynamic ? static_cast<std::size_t>(trained * factor) : max_positions;
  }
};

// Cosines and sines by position, computed in fp64 and kept as fp32.
//
// Dynamic scaling, as InternLM2 and transformers define it: while a sequence has at most max_positions tokens
// nothing changes; beyond, its base becomes theta * (factor * n / max_positions - (factor - 1))^(d / (d -
// 2)), where n is the sequence's length after the call. Longrope (Phi-3) chooses between its two sets of
// factors by the same n. Either way, keys that are in the cache stay as they were rotated.
class RopeTable {
 public:
  // Throws BundleError if the factors are not one for each frequency.
  RopeTable(const RopeFacts& facts, std::size_t head_dim);

  // Fills cosines and sines [count, head_dim / 2] for positions [first, first + count) of a sequence that has
  // `length` tokens after the call.
  void fill(std::size_t first, std::size_t count, std::size_t length, float* cosines, float* sines);

 private:
  // The positions so far under one set of frequencies, [positions, head_dim / 2].
  struct Known {
    std::vector<float> cosines;
    std::vector<float> sines;
  };

  void compute(std::size_t first, std::size_t count, double theta, const std::vector<double>& factors,
               float* cosines, float* sines) const;

  RopeFacts facts_;
  std::size_t head_dim_;
  Known short_;
  Known long_;
};

}  // namespace internvl
