#include "model/resolution_router.h"

#include <algorithm>
#include <cmath>

#include "model/tensor_names.h"
#include "ops/weights.h"
#include "runtime/error.h"

namespace internvl {
namespace {

// torch's default, which all of these layers have.
constexpr float norm_eps = 1e-5F;
constexpr std::size_t looks = 4;

FlashFacts checked(const VisionFacts& vision, const FlashFacts& facts) {
  const bool possible = facts.downsample > 0 && facts.heads > 0 && vision.grid() % facts.downsample == 0 &&
                        vision.hidden_size % facts.heads == 0;
  if (!possible) {
    throw BundleError(
        "the manifest describes an impossible resolution router: its pixel shuffle's block must divide the "
        "side of a tile, and the tower's channels be a multiple of its heads. Export the bundle again.");
  }
  return facts;
}

std::size_t inner_size(const VisionFacts& vision) { return 4 * vision.hidden_size; }
std::size_t projected_size(const VisionFacts& vision) { return 2 * vision.output_size; }

}  // namespace

RouterNeeds router_needs(const VisionFacts& vision, const FlashFacts& facts) {
  const std::size_t projected = facts.tokens(vision) * projected_size(vision);
  const std::size_t shuffled = facts.block_channels(vision);
  return {
      .inputs = projected,
      .wide = std::max(projected, vision.tokens() * 2 * vision.hidden_size),
      .own = 2 * vision.hidden_size + inner_size(vision),
      .read = std::max({vision.tokens() * vision.hidden_size, inner_size(vision),
                        facts.tokens(vision) * shuffled, projected}),
      .longest_row = std::max({inner_size(vision), shuffled, projected_size(vision)}),
  };
}

ResolutionRouter::ResolutionRouter(const VisionFacts& vision, const FlashFacts& facts, VisionWeights& weights)
    : vision_(vision), facts_(checked(vision, facts)) {
  const std::size_t c = vision.hidden_size;
  const std::size_t shuffled = facts.block_channels(vision);
  const std::size_t projected = projected_size(vision);
  const std::span<const float> query = vector_of(weights.file(), std::string(kFlashQuery), c);
  query_.assign(query.begin(), query.end());
  attentions_ = {load_attention("1", weights), load_attention("2", weights)};
  blocks_ = load_blocks(weights);
  gate_norm_ = weights.norm("flash.gate_norm", NormKind::layer_norm, c, norm_eps);
  gate_ = weights.linear("flash.gate", 2, c);
  norm_ = weights.norm("flash.projector.norm", NormKind::layer_norm, shuffled, norm_eps);
  fc1_ = weights.linear("flash.projector.fc1", projected, shuffled);
  fc2_ = weights.linear("flash.projector.fc2", projected, projected);
  fc3_ = weights.linear("flash.projector.fc3", vision.output_size, projected);
}

ResolutionRouter::Attention ResolutionRouter::load_attention(const std::string& number,
                                                             VisionWeights& weights) const {
  const std::size_t c = vision_.hidden_size;
  const std::string name = "flash.attention" + number;
  // Patches need no queries, and the query no keys and values.
  return {.query = weights.linear(name + ".qkv", 3 * c, c, RowRange{0, c}),
          .keys_values = weights.linear(name + ".qkv", 3 * c, c, RowRange{c, 2 * c}),
          .proj = weights.linear(name + ".proj", c, c),
          .norm = weights.norm("flash.norm" + number, NormKind::layer_norm, c, norm_eps)};
}

std::vector<ResolutionRouter::Block> ResolutionRouter::load_blocks(VisionWeights& weights) const {
  const std::size_t c = vision_.hidden_size;
  std::vector<Block> blocks;
  for (std::size_t i = 0; i < kFlashBlocks; ++i) {
    const std::string name = "flash.blocks." + std::to_string(i);
    blocks.push_back({.fc1 = weights.linear(name + ".fc1", inner_size(vision_), c),
                      .fc2 = weights.linear(name + ".fc2", c, inner_size(vision_)),
                      .norm = weights.norm(name + ".norm", NormKind::layer_norm, c, norm_eps)});
  }
  return blocks;
}

PoolingShape ResolutionRouter::pooling() const {
  return {vision_.tokens(), facts_.heads, vision_.hidden_size / facts_.heads};
}

RouterMemory ResolutionRouter::memory(Operations& ops, std::size_t tiles, const Buffer& stream,
                                      const Buffer& inputs, const Buffer& wide) const {
  return {.stream = stream,
          .inputs = inputs,
          .wide = wide,
          .state = ops.buffer(tiles, vision_.hidden_size),
          .seen = ops.buffer(tiles, vision_.hidden_size),
          .inner = ops.buffer(tiles, inner_size(vision_))};
}

void ResolutionRouter::judge(Operations& ops, const RouterMemory& memory, std::size_t tiles,
                             FunctionRef<void()> pause, std::span<float> scores) const {
  const std::size_t c = vision_.hidden_size;
  const std::size_t tokens = tiles * vision_.tokens();
  const RowRange rows{0, tiles};
  const Buffer& state = memory.state;
  const Buffer queries = ops.view(memory.inner, tiles, c);
  const Buffer keys_values = ops.view(memory.wide, tokens, 2 * c);
  for (std::size_t tile = 0; tile < tiles; ++tile) ops.write(query_, state, tile);
  const Attention* before = nullptr;
  for (std::size_t look = 0; look < looks; ++look) {
    const Attention& attention = attentions_[std::min(look, attentions_.size() - 1)];
    if (look < attentions_.size()) {
      pause();
      ops.linear(memory.stream, {0, tokens}, attention.keys_values, {}, keys_values);
    }
    if (before == nullptr) {
      ops.linear(state, rows, attention.query, {}, queries);
    } else {
      ops.norm_linear(state, rows, before->norm, attention.query, {}, queries);
    }
    ops.pool_tiles(queries, keys_values, tiles, memory.seen);
    ops.linear(memory.seen, rows, attention.proj, {}, state);
    before = &attention;
  }
  ops.norm(state, rows, before->norm, false, state);
  for (const Block& block : blocks_) {
    const Buffer inner = ops.operand(memory.inner, tiles, inner_size(vision_), block.fc2.weight);
    ops.linear(state, rows, block.fc1, {.gelu = true}, inner);
    ops.linear(inner, rows, block.fc2, {}, memory.seen);
    ops.norm(memory.seen, rows, block.norm, true, state);
  }
  const Buffer gate = ops.view(memory.inner, tiles, 2);
  ops.norm_linear(state, rows, gate_norm_, gate_, {}, gate);
  std::vector<float> logits(tiles * 2);
  ops.read(gate, rows, logits);
  // The first of a softmax over two.
  for (std::size_t tile = 0; tile < tiles; ++tile) {
    scores[tile] = 1.0F / (1.0F + std::exp(logits[2 * tile + 1] - logits[2 * tile]));
  }
}

void ResolutionRouter::compress(Operations& ops, const RouterMemory& memory, std::size_t tiles,
                                std::span<float> compressed) const {
  const RowRange rows{0, tiles * facts_.tokens(vision_)};
  const PixelShuffleShape shape{tiles, vision_.grid(), vision_.hidden_size, facts_.downsample};
  const Buffer first = ops.operand(memory.wide, rows.count, projected_size(vision_), fc2_.weight);
  const Buffer second = ops.operand(memory.inputs, rows.count, projected_size(vision_), fc3_.weight);
  ops.shuffle_norm_linear(memory.stream, shape, PixelShuffleVersion::v2, norm_, fc1_, {.gelu = true}, first);
  ops.linear(first, rows, fc2_, {.gelu = true}, second);
  ops.linear(second, rows, fc3_, {}, compressed);
}

}  // namespace internvl
