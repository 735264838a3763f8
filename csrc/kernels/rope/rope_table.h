// The angles of rotary position embedding.
#pragma once

#include <cstddef>
#include <vector>

namespace internvl {

struct RopeFacts {
  double theta;
  bool dynamic;   // dynamic NTK scaling beyond max_positions
  double factor;  // of the dynamic scaling
  std::size_t max_positions;
};

// Cosines and sines by position, computed in fp64 and kept as fp32.
//
// Dynamic scaling, as InternLM2 and transformers define it: while a sequence has at most max_positions tokens
// nothing changes; beyond, its base becomes theta * (factor * n / max_positions - (factor - 1))^(d / (d -
// 2)), where n is the sequence's length after the call. Keys that are in the cache stay as they were rotated.
class RopeTable {
 public:
  RopeTable(const RopeFacts& facts, std::size_t head_dim);

  // Fills cosines and sines [count, head_dim / 2] for positions [first, first + count) of a sequence that has
  // `length` tokens after the call.
  void fill(std::size_t first, std::size_t count, std::size_t length, float* cosines, float* sines);

 private:
  void compute(std::size_t first, std::size_t count, double theta, float* cosines, float* sines) const;

  RopeFacts facts_;
  std::size_t head_dim_;
  std::vector<float> cosines_;  // [positions so far, head_dim / 2]
  std::vector<float> sines_;
};

}  // namespace internvl
