// The weights of one pass of a bicubic resize.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/resample/resample.h"

namespace internvl {

class ResampleFilter {
 public:
  // Pillow's weights for resampling `source` positions to `outputs`: cubic convolution with a = -0.5, widened
  // by the scale where the picture shrinks, normalised to sum 1 inside the picture, rounded to weight_bits.
  ResampleFilter(std::size_t source, std::size_t outputs);

  // A pass whose size does not change is skipped.
  bool is_identity() const { return source_ == taps_.size(); }
  std::size_t outputs() const { return taps_.size(); }
  std::size_t source() const { return source_; }

  // The source positions that an output position is made of: [first, end).
  std::size_t first(std::size_t output) const { return taps_[output].first; }
  std::size_t end(std::size_t output) const;
  // The most source positions that an output position is made of, rounded up to pairs.
  std::size_t most_taps() const { return most_taps_; }
  // The most source positions that a chunk of a horizontal pass reads.
  std::size_t chunk_source() const { return chunk_source_; }

  const Taps& taps(std::size_t output) const { return taps_[output]; }
  const TapPair* weights(std::size_t output) const { return weights_.data() + taps_[output].weights; }
  FilterView view() const { return {taps_.data(), weights_.data(), taps_.size(), source_, chunk_}; }

 private:
  void choose_chunk();

  std::size_t source_;
  std::vector<Taps> taps_;
  std::vector<TapPair> weights_;
  std::size_t most_taps_ = 0;
  std::size_t chunk_ = 0;
  std::size_t chunk_source_ = 0;
};

}  // namespace internvl
