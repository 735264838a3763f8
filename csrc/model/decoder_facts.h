#pragma once

#include <cstddef>

#include "model/rope_table.h"

namespace internvl {

// Of a mixture of experts: a router chooses, for every token, so many of so many MLPs.
struct ExpertFacts {
  std::size_t count = 0;  // none: one MLP for all tokens
  std::size_t chosen = 0;
  bool normalise = false;  // the weights of the chosen ones are made to sum to one
};

// What a language model is: a pre-norm decoder with grouped-query attention and a SiLU-gated MLP.
// Mirrors LanguageModel of the bundle's manifest.
struct DecoderFacts {
  std::size_t hidden_size;
  std::size_t layers;
  std::size_t heads;
  std::size_t kv_heads;
  std::size_t head_dim;
  std::size_t intermediate_size;  // of the MLP, or of each expert
  std::size_t vocab_size;
  float norm_eps;
  bool qkv_bias;
  bool qk_norm;  // RMSNorm over each query and key head, before the rotation
  RopeFacts rope;
  ExpertFacts experts{};

  std::size_t qkv_rows() const { return (heads + 2 * kv_heads) * head_dim; }
};

}  // namespace internvl
