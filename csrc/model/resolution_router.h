// The resolution router of InternVL3.5-Flash: how well each tile can do with fewer tokens, and what the tile
// is in those.
//
// A learned query looks at the tower's patches four times (the three later times through the same attention),
// four residual blocks judge what it saw, and a softmax over two gives the score. The compressed tile comes
// from a coarser pixel shuffle and a projector of its own, mlp2 in the authors' code.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "model/flash_facts.h"
#include "model/vision_facts.h"
#include "model/vision_weights.h"
#include "ops/ops.h"
#include "runtime/function_ref.h"

namespace internvl {

// Elements of activations that a tile needs.
struct RouterNeeds {
  std::size_t inputs;       // of RouterMemory::inputs
  std::size_t wide;         // of RouterMemory::wide
  std::size_t own;          // of the rest, together
  std::size_t read;         // of the rows that one matrix reads, at most
  std::size_t longest_row;  // of those, at most
};

RouterNeeds router_needs(const VisionFacts& vision, const FlashFacts& facts);

// Activations of a batch of tiles. What others keep in `inputs` and `wide` is lost.
struct RouterMemory {
  Buffer stream;  // [tiles * tokens, hidden_size]: what the tower made of the tiles; it stays as it is
  Buffer inputs;  // of any shape, as the next
  Buffer wide;
  Buffer state;  // [tiles, hidden_size], as the next
  Buffer seen;
  Buffer inner;  // [tiles, 4 * hidden_size]
};

// What becomes of a tile depends on that tile alone, bit for bit.
class ResolutionRouter {
 public:
  // Throws BundleError if a tensor is missing or of another shape or type, or the facts are impossible.
  ResolutionRouter(const VisionFacts& vision, const FlashFacts& facts, VisionWeights& weights);

  const FlashFacts& facts() const { return facts_; }
  PoolingShape pooling() const;
  // Takes the memory that is the router's own.
  RouterMemory memory(Operations& ops, std::size_t tiles, const Buffer& stream, const Buffer& inputs,
                      const Buffer& wide) const;

  // Scores [tiles]: the probability that a tile can do with fewer tokens. Calls `pause` before each of its
  // two attentions.
  void judge(Operations& ops, const RouterMemory& memory, std::size_t tiles, FunctionRef<void()> pause,
             std::span<float> scores) const;
  // Features of compressed tiles [tiles, facts().tokens(), output_size].
  void compress(Operations& ops, const RouterMemory& memory, std::size_t tiles,
                std::span<float> compressed) const;

 private:
  struct Attention {
    Linear query;
    Linear keys_values;
    Linear proj;
    Norm norm;
  };
  struct Block {
    Linear fc1;
    Linear fc2;
    Norm norm;
  };

  Attention load_attention(const std::string& number, VisionWeights& weights) const;
  std::vector<Block> load_blocks(VisionWeights& weights) const;

  VisionFacts vision_;
  FlashFacts facts_;
  std::vector<float> query_;
  std::array<Attention, 2> attentions_;
  std::vector<Block> blocks_;
  Norm gate_norm_;
  Linear gate_;
  Norm norm_;  // of the projector
  Linear fc1_;
  Linear fc2_;
  Linear fc3_;
};

}  // namespace internvl
