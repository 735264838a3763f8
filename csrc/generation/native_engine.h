// The engine of this library: vision encoder and language model on one device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "bundle/manifest.h"
#include "generation/engine.h"
#include "model/decoder.h"
#include "model/vision_encoder.h"

namespace internvl {

// The features of a tile are the same bits whatever tiles are encoded beside it, and the logits after a token
// however its sequence was cut into calls and whatever is decoded beside it; both for any number of threads.
class NativeEngine : public Engine {
 public:
  NativeEngine(std::shared_ptr<Decoder> decoder, std::shared_ptr<VisionEncoder> vision,
               std::int64_t image_context_id);

  Decoder& decoder() { return *decoder_; }
  VisionEncoder& vision() { return *vision_; }
  std::int64_t image_context_id() const { return image_context_id_; }

  const CacheRoom& cache() const override { return cache_; }
  EncodedTiles encode(std::span<const std::uint8_t> tiles, std::size_t count,
                      const Progress& progress) override;
  SequenceId new_sequence() override { return decoder_->new_sequence(); }
  SequenceId fork(SequenceId sequence, std::size_t tokens) override {
    return decoder_->fork(sequence, tokens);
  }
  void drop(SequenceId sequence) override { decoder_->drop(sequence); }
  std::vector<float> prefill(SequenceId sequence, std::span<const std::int64_t> ids,
                             std::span<const float> features, const Progress& progress) override;
  std::vector<float> decode(std::span<const SequenceId> sequences, std::span<const std::int64_t> tokens,
                            std::span<const std::size_t> counts) override;

 private:
  std::shared_ptr<Decoder> decoder_;
  std::shared_ptr<VisionEncoder> vision_;
  std::int64_t image_context_id_;
  CacheRoom cache_;
};

}  // namespace internvl
