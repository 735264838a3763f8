#include "generation/native_engine.h"

#include <utility>

namespace internvl {

NativeEngine::NativeEngine(std::shared_ptr<Decoder> decoder, std::shared_ptr<VisionEncoder> vision,
                           std::int64_t image_context_id)
    : decoder_(std::move(decoder)),
      vision_(std::move(vision)),
      image_context_id_(image_context_id),
      cache_{decoder_->cache_tokens(), decoder_->block_tokens(), true} {}

EncodedTiles NativeEngine::encode(std::span<const std::uint8_t> tiles, std::size_t count,
                                  const Progress& progress) {
  EncodedTiles encoded;
  const VisionFacts& facts = vision_->facts();
  encoded.features.resize(count * facts.image_tokens() * facts.output_size);
  TileOutput output{encoded.features.data()};
  if (const FlashFacts* flash = vision_->flash()) {
    encoded.compressed.resize(count * flash->tokens(facts) * facts.output_size);
    encoded.scores.resize(count);
    output.compressed = encoded.compressed.data();
    output.scores = encoded.scores.data();
  }
  const VisionTimes times = vision_->encode(tiles, count, output, progress);
  encoded.vit_ms = times.vit_ms;
  encoded.projector_ms = times.projector_ms;
  return encoded;
}

std::vector<float> NativeEngine::prefill(SequenceId sequence, std::span<const std::int64_t> ids,
                                         std::span<const float> features, const Progress& progress) {
  const DecoderFacts& facts = decoder_->facts();
  std::vector<float> embeddings(ids.size() * facts.hidden_size);
  decoder_->embed(ids, features.data(), features.size() / facts.hidden_size, image_context_id_,
                  embeddings.data());
  std::vector<float> logits(facts.vocab_size);
  decoder_->prefill(sequence, embeddings.data(), ids.size(), false, logits.data(), progress);
  return logits;
}

std::vector<float> NativeEngine::decode(std::span<const SequenceId> sequences,
                                        std::span<const std::int64_t> tokens,
                                        std::span<const std::size_t> counts) {
  std::vector<float> logits(sequences.size() * decoder_->facts().vocab_size);
  decoder_->decode(sequences, tokens, counts, logits.data());
  return logits;
}

}  // namespace internvl
