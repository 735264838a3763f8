// The vision side against plain fp64 loops over the same stored weights.

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "devices.h"
#include "image/pixel_values.h"
#include "kernels/attention/attention.h"
#include "model/vision_encoder.h"
#include "ops/cpu/linear.h"
#include "random_weights.h"
#include "temporary_weights.h"

namespace internvl {
namespace {

using Rows = std::vector<std::vector<double>>;

// Sizes that are multiples of nothing but what the tower asks for; 17 and 65 tokens a tile, which is less and
// more than a block of keys.
VisionFacts tiny_300m() {
  return {.hidden_size = 72,
          .layers = 2,
          .heads = 3,
          .intermediate_size = 100,
          .image_size = 20,
          .patch_size = 5,
          .norm = NormKind::layer_norm,
          .norm_eps = 1e-6F,
          .qkv_bias = true,
          .qk_norm = false,
          .downsample = 2,
          .pixel_shuffle = PixelShuffleVersion::v2,
          .projector_norm_eps = 1e-5F,
          .output_size = 50};
}

VisionFacts tiny_6b() {
  VisionFacts facts = tiny_300m();
  facts.hidden_size = 80;
  facts.heads = 2;
  facts.image_size = 24;
  facts.patch_size = 3;
  facts.norm = NormKind::rms_norm;
  facts.qkv_bias = false;
  facts.qk_norm = true;
  facts.pixel_shuffle = PixelShuffleVersion::v1;
  return facts;
}

// A coarser shuffle than that of either tower, and heads of 9 and 10 channels, which no kernel takes as they
// are.
FlashFacts flash_of(const VisionFacts& facts) {
  return {
      .downsample = 2 * facts.downsample, .heads = 8, .relative_threshold = 0.5, .absolute_threshold = 0.1};
}

// A weight file of a tiny tower: matrices of one type, vectors of fp32; and what it holds, in fp64.
class TinyWeights {
 public:
  explicit TinyWeights(const VisionFacts& facts, DataType type, const std::string& without = "",
                       const std::optional<FlashFacts>& flash = {})
      : written_(without) {
    const std::size_t c = facts.hidden_size;
    const std::size_t f = facts.intermediate_size;
    vector("vit.class_embedding", c);
    table("vit.position_embedding", DataType::float32, facts.tokens(), c, {});
    const auto side = static_cast<std::int64_t>(facts.patch_size);
    const bool whole = type == DataType::int8;
    table("vit.patch_embedding.weight", whole ? DataType::bfloat16 : type, c, facts.patch_values(),
          {static_cast<std::int64_t>(c), 3, side, side});
    vector("vit.patch_embedding.bias", c);
    for (std::size_t i = 0; i < facts.layers; ++i) {
      const std::string layer = "vit.layers." + std::to_string(i) + ".";
      // Small, so that scores are of a size at which softmax does not multiply errors.
      norm(layer + "norm1", c, facts.norm == NormKind::layer_norm, 0.05F);
      matrix(layer + "qkv", type, 3 * c, c, facts.qkv_bias);
      if (facts.qk_norm) {
        norm(layer + "q_norm", c, false);
        norm(layer + "k_norm", c, false);
      }
      matrix(layer + "proj", type, c, c, true);
      vector(layer + "ls1", c);
      norm(layer + "norm2", c, facts.norm == NormKind::layer_norm);
      matrix(layer + "fc1", type, f, c, true);
      matrix(layer + "fc2", type, c, f, true);
      vector(layer + "ls2", c, flash ? 0.02F : 1.0F);
    }
    norm("projector.norm", facts.block_channels(), true);
    matrix("projector.fc1", type, facts.output_size, facts.block_channels(), true);
    matrix("projector.fc2", type, facts.output_size, facts.output_size, true);
    if (flash) router(facts, *flash, type);
    written_.write();
  }

  std::shared_ptr<const WeightFile> file() const { return written_.file(); }
  const std::vector<double>& exact(const std::string& name) const { return exact_.at(name); }
  bool has(const std::string& name) const { return exact_.contains(name); }

 private:
  // With small norms and biases, so that attention is neither uniform nor of one patch, and what the query
  // saw decides the score.
  void router(const VisionFacts& facts, const FlashFacts& flash, DataType type) {
    const std::size_t c = facts.hidden_size;
    const std::size_t shuffled = c * flash.downsample * flash.downsample;
    const std::size_t projected = 2 * facts.output_size;
    constexpr float small = 0.01F;
    vector("flash.query", c, small);
    for (const std::string number : {"1", "2"}) {
      matrix("flash.attention" + number + ".qkv", type, 3 * c, c, true, small);
      matrix("flash.attention" + number + ".proj", type, c, c, true, small);
      norm("flash.norm" + number, c, true, small);
    }
    for (const std::string number : {"0", "1", "2", "3"}) {
      const std::string block = "flash.blocks." + number;
      matrix(block + ".fc1", type, 4 * c, c, true, small);
      matrix(block + ".fc2", type, c, 4 * c, true, small);
      vector(block + ".norm.weight", c);
      vector(block + ".norm.bias", c, small);
    }
    norm("flash.gate_norm", c, true,
         type == DataType::int8 ? small : 0.1F);  // random int8 weights are larger
    matrix("flash.gate", type, 2, c, true, small);
    norm("flash.projector.norm", shuffled, true);
    matrix("flash.projector.fc1", type, projected, shuffled, true);
    matrix("flash.projector.fc2", type, projected, projected, true);
    matrix("flash.projector.fc3", type, facts.output_size, projected, true);
  }
  void table(const std::string& name, DataType type, std::size_t rows, std::size_t columns,
             std::vector<std::int64_t> shape) {
    test::RandomWeights w(type, rows, columns, ++seed_);
    if (shape.empty()) shape = {static_cast<std::int64_t>(rows), static_cast<std::int64_t>(columns)};
    written_.put(name, type, std::move(shape), w.values_bytes);
    if (type == DataType::int8) {
      written_.put(name + ".scales", DataType::float32, {static_cast<std::int64_t>(rows)}, w.scales_bytes);
    }
    exact_[name] = std::move(w.exact);
  }
  void matrix(const std::string& name, DataType type, std::size_t rows, std::size_t columns, bool bias,
              float bias_deviation = 1.0F) {
    table(name + ".weight", type, rows, columns, {});
    if (bias) vector(name + ".bias", rows, bias_deviation);
  }
  void norm(const std::string& name, std::size_t size, bool bias, float deviation = 1.0F) {
    vector(name + ".weight", size, deviation);
    if (bias) vector(name + ".bias", size, deviation);
  }
  void vector(const std::string& name, std::size_t size, float deviation = 1.0F) {
    const std::vector<float> values = test::random_floats(size, ++seed_, deviation);
    std::vector<std::byte> bytes(size * sizeof(float));
    std::memcpy(bytes.data(), values.data(), bytes.size());
    written_.put(name, DataType::float32, {static_cast<std::int64_t>(size)}, bytes);
    exact_[name].assign(values.begin(), values.end());
  }

  test::TemporaryWeights written_;
  unsigned seed_ = 0;
  std::map<std::string, std::vector<double>> exact_;
};

// The model in fp64, written from its definition.
class Reference {
 public:
  Reference(const VisionFacts& facts, const TinyWeights& weights) : facts_(facts), weights_(weights) {}

  Rows tower(const float* pixels) const {
    Rows x = embedded(pixels);
    for (std::size_t i = 0; i < facts_.layers; ++i) layer(x, "vit.layers." + std::to_string(i) + ".");
    return x;
  }

  Rows features(const float* pixels) const {
    Rows tokens = shuffled(tower(pixels), facts_.downsample, facts_.pixel_shuffle);
    normalise(tokens, "projector.norm", facts_.projector_norm_eps, true);
    Rows inner = product(tokens, "projector.fc1");
    gelu(inner);
    return product(inner, "projector.fc2");
  }

  Rows compressed(const float* pixels, const FlashFacts& flash) const {
    Rows tokens = shuffled(tower(pixels), flash.downsample, PixelShuffleVersion::v2);
    normalise(tokens, "flash.projector.norm", 1e-5, true);
    Rows inner = product(tokens, "flash.projector.fc1");
    gelu(inner);
    inner = product(inner, "flash.projector.fc2");
    gelu(inner);
    return product(inner, "flash.projector.fc3");
  }

  double score(const float* pixels, const FlashFacts& flash) const {
    Rows patches = tower(pixels);
    patches.erase(patches.begin());
    Rows x{get("flash.query")};
    for (const std::string number : {"1", "2", "2", "2"}) {
      x = pooled(x, patches, "flash.attention" + number, flash.heads);
      normalise(x, "flash.norm" + number, 1e-5, true);
    }
    for (const std::string number : {"0", "1", "2", "3"}) {
      const std::string block = "flash.blocks." + number;
      Rows u = product(x, block + ".fc1");
      gelu(u);
      u = product(u, block + ".fc2");
      normalise(u, block + ".norm", 1e-5, true);
      for (std::size_t i = 0; i < x[0].size(); ++i) x[0][i] += u[0][i];
    }
    normalise(x, "flash.gate_norm", 1e-5, true);
    const Rows logits = product(x, "flash.gate");
    return 1 / (1 + std::exp(logits[0][1] - logits[0][0]));
  }

 private:
  // Attention of one row over others, by a matrix [queries | keys | values].
  Rows pooled(const Rows& x, const Rows& patches, const std::string& name, std::size_t heads) const {
    const std::size_t c = facts_.hidden_size;
    const std::size_t d = c / heads;
    const Rows query = product(x, name + ".qkv");
    const Rows others = product(patches, name + ".qkv");
    Rows seen(1, std::vector<double>(c));
    for (std::size_t head = 0; head < heads; ++head) {
      std::vector<double> weights;
      double total = 0;
      for (const auto& row : others) {
        double product = 0;
        for (std::size_t e = head * d; e < (head + 1) * d; ++e) product += query[0][e] * row[c + e];
        weights.push_back(product / std::sqrt(static_cast<double>(d)));
      }
      const double greatest = *std::max_element(weights.begin(), weights.end());
      for (double& weight : weights) total += weight = std::exp(weight - greatest);
      for (std::size_t e = head * d; e < (head + 1) * d; ++e) {
        for (std::size_t i = 0; i < others.size(); ++i) {
          seen[0][e] += weights[i] / total * others[i][2 * c + e];
        }
      }
    }
    return product(seen, name + ".proj");
  }

  Rows shuffled(const Rows& x, std::size_t k, PixelShuffleVersion version) const {
    Rows tokens;
    const std::size_t blocks = facts_.grid() / k;
    for (std::size_t a = 0; a < blocks; ++a) {
      for (std::size_t b = 0; b < blocks; ++b) {
        const bool by_rows = version == PixelShuffleVersion::v2;
        const std::size_t row = by_rows ? a : b;
        const std::size_t column = by_rows ? b : a;
        std::vector<double> token;
        for (std::size_t dy = 0; dy < k; ++dy) {
          for (std::size_t dx = 0; dx < k; ++dx) {
            const auto& patch = x[1 + (row * k + dy) * facts_.grid() + column * k + dx];
            token.insert(token.end(), patch.begin(), patch.end());
          }
        }
        tokens.push_back(token);
      }
    }
    return tokens;
  }

  const std::vector<double>& get(const std::string& name) const { return weights_.exact(name); }

  Rows embedded(const float* pixels) const {
    const std::size_t c = facts_.hidden_size;
    const std::size_t side = facts_.patch_size;
    const std::size_t size = facts_.image_size;
    const auto& kernel = get("vit.patch_embedding.weight");
    Rows x(facts_.tokens(), std::vector<double>(c));
    for (std::size_t i = 0; i < c; ++i) x[0][i] = get("vit.class_embedding")[i];
    for (std::size_t p = 0; p < facts_.patches(); ++p) {
      const std::size_t top = p / facts_.grid() * side;
      const std::size_t left = p % facts_.grid() * side;
      for (std::size_t i = 0; i < c; ++i) {
        double sum = get("vit.patch_embedding.bias")[i];
        for (std::size_t channel = 0; channel < 3; ++channel) {
          for (std::size_t dy = 0; dy < side; ++dy) {
            for (std::size_t dx = 0; dx < side; ++dx) {
              sum += static_cast<double>(pixels[(channel * size + top + dy) * size + left + dx]) *
                     kernel[((i * 3 + channel) * side + dy) * side + dx];
            }
          }
        }
        x[1 + p][i] = sum;
      }
    }
    for (std::size_t t = 0; t < x.size(); ++t) {
      for (std::size_t i = 0; i < c; ++i) x[t][i] += get("vit.position_embedding")[t * c + i];
    }
    return x;
  }

  void layer(Rows& x, const std::string& name) const {
    const std::size_t c = facts_.hidden_size;
    const std::size_t d = facts_.head_dim();
    const bool centered = facts_.norm == NormKind::layer_norm;
    Rows u = x;
    normalise(u, name + "norm1", facts_.norm_eps, centered);
    const Rows qkv = product(u, name + "qkv");
    std::array<Rows, 3> parts;
    for (std::size_t part = 0; part < 3; ++part) {
      for (const auto& row : qkv) {
        const auto from = row.begin() + static_cast<std::ptrdiff_t>(part * c);
        parts[part].emplace_back(from, from + static_cast<std::ptrdiff_t>(c));
      }
    }
    auto& [q, k, v] = parts;
    if (facts_.qk_norm) {
      normalise(q, name + "q_norm", facts_.norm_eps, false);
      normalise(k, name + "k_norm", facts_.norm_eps, false);
    }
    for (std::size_t head = 0; head < facts_.heads; ++head) {
      for (std::size_t i = 0; i < x.size(); ++i) {
        std::vector<double> weights;
        double total = 0;
        for (std::size_t j = 0; j < x.size(); ++j) {
          double score = 0;
          for (std::size_t e = head * d; e < (head + 1) * d; ++e) score += q[i][e] * k[j][e];
          weights.push_back(score / std::sqrt(static_cast<double>(d)));
        }
        const double greatest = *std::max_element(weights.begin(), weights.end());
        for (double& weight : weights) total += weight = std::exp(weight - greatest);
        for (std::size_t e = head * d; e < (head + 1) * d; ++e) {
          double sum = 0;
          for (std::size_t j = 0; j < x.size(); ++j) sum += weights[j] / total * v[j][e];
          u[i][e] = sum;
        }
      }
    }
    add(x, product(u, name + "proj"), name + "ls1");
    u = x;
    normalise(u, name + "norm2", facts_.norm_eps, centered);
    Rows inner = product(u, name + "fc1");
    gelu(inner);
    add(x, product(inner, name + "fc2"), name + "ls2");
  }

  void add(Rows& x, const Rows& y, const std::string& layer_scale) const {
    for (std::size_t i = 0; i < x.size(); ++i) {
      for (std::size_t j = 0; j < x[i].size(); ++j) x[i][j] += get(layer_scale)[j] * y[i][j];
    }
  }

  Rows product(const Rows& x, const std::string& name) const {
    const auto& w = get(name + ".weight");
    const std::size_t k = x[0].size();
    const std::size_t n = w.size() / k;
    Rows y;
    for (const auto& row : x) {
      std::vector<double> out(n);
      for (std::size_t i = 0; i < n; ++i) {
        if (weights_.has(name + ".bias")) out[i] = get(name + ".bias")[i];
        for (std::size_t j = 0; j < k; ++j) out[i] += row[j] * w[i * k + j];
      }
      y.push_back(out);
    }
    return y;
  }

  void normalise(Rows& x, const std::string& name, double eps, bool centered) const {
    const auto& weight = get(name + ".weight");
    for (auto& row : x) {
      const auto n = static_cast<double>(row.size());
      double mean = 0;
      double squares = 0;
      if (centered) {
        for (const double value : row) mean += value / n;
      }
      for (const double value : row) squares += (value - mean) * (value - mean) / n;
      for (std::size_t i = 0; i < row.size(); ++i) {
        row[i] = (row[i] - mean) / std::sqrt(squares + eps) * weight[i];
        if (centered) row[i] += get(name + ".bias")[i];
      }
    }
  }

  static void gelu(Rows& x) {
    for (auto& row : x) {
      for (double& value : row) value *= 0.5 * std::erfc(-value / std::sqrt(2.0));
    }
  }

  const VisionFacts& facts_;
  const TinyWeights& weights_;
};

// Of another mean and deviation for each channel.
Normalisation normalisation() { return make_normalisation({0.485, 0.456, 0.406}, {0.229, 0.224, 0.225}); }

VisionEncoder encoder_of(const VisionFacts& facts, const TinyWeights& weights, int threads,
                         std::size_t bytes = default_activation_bytes,
                         const std::optional<FlashFacts>& flash = {}) {
  return {facts, flash, normalisation(), weights.file(), test::cpu(threads), bytes};
}

// Of values that are normalised already, or of pixels.
template <class Value>
std::vector<float> encoded(VisionEncoder& encoder, const std::vector<Value>& pixels,
                           const VisionEncoder::Progress& progress = {}) {
  const VisionFacts& facts = encoder.facts();
  const std::size_t tiles = pixels.size() / facts.tile_pixels();
  std::vector<float> features(tiles * facts.image_tokens() * facts.output_size, NAN);
  encoder.encode(std::span<const Value>(pixels), tiles, {features.data()}, progress);
  return features;
}

struct Judged {
  std::vector<float> features;
  std::vector<float> compressed;
  std::vector<float> scores;

  bool operator==(const Judged&) const = default;
};

Judged judged(VisionEncoder& encoder, const std::vector<float>& pixels,
              const VisionEncoder::Progress& progress = {}) {
  const VisionFacts& facts = encoder.facts();
  const std::size_t tiles = pixels.size() / facts.tile_pixels();
  Judged found{std::vector<float>(tiles * facts.image_tokens() * facts.output_size, NAN),
               std::vector<float>(tiles * encoder.flash()->tokens(facts) * facts.output_size, NAN),
               std::vector<float>(tiles, NAN)};
  encoder.encode(std::span<const float>(pixels), tiles,
                 {found.features.data(), found.compressed.data(), found.scores.data()}, progress);
  return found;
}

// How far numbers are from those of fp64: the largest error, in units of the root mean square, and the
// cosine.
struct Distance {
  double worst;
  double cosine;

  Distance(const std::vector<float>& found, const std::vector<double>& exact) {
    double squares = 0;
    double found_squares = 0;
    double product = 0;
    double most = found.size() == exact.size() ? 0 : INFINITY;
    for (std::size_t i = 0; i < std::min(found.size(), exact.size()); ++i) {
      const double value = found[i];
      squares += exact[i] * exact[i];
      found_squares += value * value;
      product += value * exact[i];
      const double error = std::abs(value - exact[i]);
      if (!(error <= most)) most = error;  // NaN stays
    }
    worst = most / std::sqrt(squares / static_cast<double>(exact.size()));
    cosine = product / std::sqrt(squares * found_squares);
  }

  bool within(DataType type) const {
    if (type == DataType::int8) return cosine >= 0.999;
    if (activations_for(type, internvl::features()) == Activations::bfloat16) return cosine >= 0.9999;
    return worst <= 1e-4;
  }
};

TEST("features are those of plain fp64 loops, for both towers, both shuffles and every weight type") {
  for (VisionFacts facts : {tiny_300m(), tiny_6b()}) {
    for (const PixelShuffleVersion version : {PixelShuffleVersion::v1, PixelShuffleVersion::v2}) {
      facts.pixel_shuffle = version;
      for (const DataType type : {DataType::float32, DataType::float16, DataType::bfloat16, DataType::int8}) {
        const TinyWeights weights(facts, type);
        const std::vector<float> pixels = test::random_floats(3 * facts.tile_pixels(), 9);
        VisionEncoder encoder = encoder_of(facts, weights, 2);
        const std::vector<float> features = encoded(encoder, pixels);
        for (std::size_t tile = 0; tile < 3; ++tile) {
          const Rows exact = Reference(facts, weights).features(&pixels[tile * facts.tile_pixels()]);
          double squares = 0;
          double worst = 0;
          double found_squares = 0;
          double product = 0;
          for (std::size_t t = 0; t < exact.size(); ++t) {
            for (std::size_t i = 0; i < facts.output_size; ++i) {
              const double found = features[(tile * exact.size() + t) * facts.output_size + i];
              CHECK(std::isfinite(found));
              squares += exact[t][i] * exact[t][i];
              found_squares += found * found;
              product += found * exact[t][i];
              worst = std::max(worst, std::abs(found - exact[t][i]));
            }
          }
          const double cosine = product / std::sqrt(squares * found_squares);
          if (type == DataType::int8) {
            // Activations are rounded to int8 too.
            CHECK(cosine >= 0.999);
            continue;
          }
          if (activations_for(type, internvl::features()) == Activations::bfloat16) {
            CHECK(cosine >= 0.9999);
            continue;
          }
          const double size = std::sqrt(squares / static_cast<double>(exact.size() * facts.output_size));
          CHECK(worst <= 1e-4 * size);
        }
      }
    }
  }
}

TEST("a tile's features are the same bits in every batch and on any number of threads") {
  for (const VisionFacts& facts : {tiny_300m(), tiny_6b()}) {
    for (const DataType type : {DataType::float32, DataType::bfloat16, DataType::int8}) {
      const TinyWeights weights(facts, type);
      const std::vector<float> pixels = test::random_floats(7 * facts.tile_pixels(), 9);
      const std::size_t tile_bytes = encoder_of(facts, weights, 1, 0).batch().bytes;
      VisionEncoder together = encoder_of(facts, weights, 1);
      const std::vector<float> wanted = encoded(together, pixels);
      CHECK(together.batch().tiles > 7);
      for (const std::size_t tiles : {1, 2, 3, 5}) {
        for (const int threads : {1, 2, 5}) {
          VisionEncoder encoder = encoder_of(facts, weights, threads, tiles * tile_bytes);
          CHECK(encoder.batch().tiles == tiles && encoder.batch().bytes == tiles * tile_bytes);
          const std::vector<float> features = encoded(encoder, pixels);
          CHECK(std::memcmp(features.data(), wanted.data(), wanted.size() * sizeof(float)) == 0);
        }
      }
    }
  }
}

TEST("pixels have the features of their normalised values, bit for bit, in every batch") {
  for (const VisionFacts& facts : {tiny_300m(), tiny_6b()}) {
    const TinyWeights weights(facts, DataType::bfloat16);
    const std::size_t side = facts.image_size;
    const std::size_t plane = side * side;
    std::vector<std::uint8_t> pixels(5 * facts.tile_pixels());
    std::vector<float> values(pixels.size());
    std::mt19937 random(3);
    const double mean[] = {0.485, 0.456, 0.406};
    const double deviation[] = {0.229, 0.224, 0.225};
    for (std::size_t i = 0; i < pixels.size(); ++i) {
      pixels[i] = static_cast<std::uint8_t>(random() % 256);
      const std::size_t c = i % 3;
      const float centred = static_cast<float>(pixels[i]) / 255.0F - static_cast<float>(mean[c]);
      values[(i / 3 / plane * 3 + c) * plane + i / 3 % plane] = centred / static_cast<float>(deviation[c]);
    }
    const std::size_t tile_bytes = encoder_of(facts, weights, 1, 0).batch().bytes;
    VisionEncoder of_values = encoder_of(facts, weights, 1);
    const std::vector<float> wanted = encoded(of_values, values);
    for (const std::size_t tiles : {1, 2, 5}) {
      VisionEncoder encoder = encoder_of(facts, weights, 2, tiles * tile_bytes);
      const std::vector<float> features = encoded(encoder, pixels);
      CHECK(std::memcmp(features.data(), wanted.data(), wanted.size() * sizeof(float)) == 0);
    }
  }
}

TEST("a batch's activations stay below the bytes that they are given, and one tile is always taken") {
  VisionFacts facts = tiny_300m();
  facts.hidden_size = 1024;
  facts.heads = 16;
  facts.intermediate_size = 4096;
  facts.image_size = 448;
  facts.patch_size = 14;
  facts.output_size = 896;
  const std::size_t tokens = 1025;
  const std::size_t floats = tokens * (2 * 1024 + 4096) * 4;
  const std::size_t made = tokens * 1024 * 4;  // rows behind a norm, where they are multiplied in fp32
  for (const Features features :
       {Features{Feature::avx2}, Features{Feature::avx2, Feature::avx512, Feature::avx512_bf16}}) {
    const CpuDevice device(std::make_shared<ThreadTeam>(1), features);
    const std::size_t bfloat16 = multiplies_bfloat16(features) ? tokens * 2 : 0;
    const struct {
      VisionStorage storage;
      std::size_t tile;
    } cases[] = {
        {{.floats = true}, floats + made},
        // Rounded and quantised rows are an odd number of cache lines.
        {{.bfloat16_columns = 4096}, floats + (bfloat16 > 0 ? bfloat16 * 4128 : made)},
        // A row of int8 has a scale and a sum for every block of 32, which int4 weights ask for. The patch
        // embedding is bf16, with a row that is not a multiple of 32.
        {{.integers = true, .bfloat16_columns = 588},
         floats + tokens * (4160 + 4096 / 32 * 8) + (bfloat16 > 0 ? bfloat16 * 608 : made)},
    };
    for (const auto& [storage, tile] : cases) {
      const VisionBatch batch = vision_batch(facts, {}, default_activation_bytes, storage, device);
      CHECK(batch.tiles == 2 && batch.bytes <= default_activation_bytes);
      CHECK(batch.bytes == 2 * tile);
      CHECK(vision_batch(facts, {}, 0, storage, device).tiles == 1);
      CHECK(vision_batch(facts, {}, 2 * tile, storage, device).tiles == 2);
      CHECK(vision_batch(facts, {}, 2 * tile - 1, storage, device).tiles == 1);
      CHECK(vision_batch(tiny_300m(), {}, std::size_t{1} << 40U, storage, device).tiles == 64);
    }
  }
}

TEST("an encoder's batch has room for the rows that its own matrices multiply") {
  const VisionFacts facts = tiny_300m();
  const std::size_t inner = facts.block_channels();  // the widest rows
  for (const DataType type : {DataType::float32, DataType::float16, DataType::bfloat16, DataType::int8}) {
    const TinyWeights weights(facts, type);
    const bool integers = type == DataType::int8;  // beside a patch embedding in bf16
    const std::size_t columns = integers ? facts.patch_values() : type == DataType::bfloat16 ? inner : 0;
    const bool floats = type == DataType::float32 || type == DataType::float16;
    const std::size_t bytes = vision_batch(facts, {}, 0, {floats, integers, columns}, *test::cpu(1)).bytes;
    CHECK(encoder_of(facts, weights, 1, 0).batch().bytes == bytes);
  }
}

TEST("an encoding that is ended between any two layers leaves the encoder as it was") {
  const VisionFacts facts = tiny_300m();
  const TinyWeights weights(facts, DataType::float32);
  const std::vector<float> pixels = test::random_floats(5 * facts.tile_pixels(), 9);
  VisionEncoder encoder =
      encoder_of(facts, weights, 2, 2 * vision_batch(facts, {}, 0, {.floats = true}, *test::cpu(1)).bytes);
  std::vector<std::size_t> all;
  const std::vector<float> whole = encoded(encoder, pixels, [&](std::size_t done) { all.push_back(done); });
  // Batches of two tiles: before each layer and in its middle, before the projector, and between the batches.
  std::vector<std::size_t> expected;
  for (std::size_t done = 0; done < 5; done += 2) {
    if (done > 0) expected.push_back(done);
    expected.insert(expected.end(), 2 * facts.layers + 1, done);
  }
  CHECK(all == expected);
  for (std::size_t last = 0; last < all.size(); ++last) {
    std::size_t calls = 0;
    const auto stop = [&](std::size_t) {
      if (calls++ == last) throw std::runtime_error("enough");
    };
    CHECK_THROWS(std::runtime_error, encoded(encoder, pixels, stop));
    CHECK(calls == last + 1);
  }
  CHECK(encoded(encoder, pixels) == whole);
}

TEST("an encoder lets others use its threads twice a layer, and a second encoding waits or gives up") {
  const VisionFacts facts = tiny_300m();
  const TinyWeights weights(facts, DataType::int8);
  const auto team = std::make_shared<ThreadTeam>(2);
  VisionEncoder encoder(facts, {}, normalisation(), weights.file(), std::make_shared<CpuDevice>(team), 0);
  const std::vector<float> pixels = test::random_floats(2 * facts.tile_pixels(), 4);
  const std::vector<float> whole = encoded(encoder, pixels);
  std::size_t stretches = 0;
  std::atomic<bool> ended{false};
  std::thread waiting;
  const auto between = [&](std::size_t) {
    {
      const std::lock_guard stretch(team->stretch());
      std::atomic<int> pieces{0};
      team->for_each_range(8, 1, [&](std::size_t, std::size_t) { ++pieces; });
      stretches += pieces == 8;
    }
    if (waiting.joinable()) return;
    waiting = std::thread([&] {
      CHECK_THROWS(std::runtime_error,
                   encoded(encoder, pixels, [](std::size_t) { throw std::runtime_error("enough"); }));
      ended = true;
    });
    while (!ended) std::this_thread::yield();  // this encoding goes on when that one has given up
  };
  CHECK(encoded(encoder, pixels, between) == whole);
  waiting.join();
  CHECK(stretches == 2 * (2 * facts.layers + 1) + 1);
}

TEST("scores and compressed tiles are those of plain fp64 loops, for both towers and every weight type") {
  for (const VisionFacts& facts : {tiny_300m(), tiny_6b()}) {
    const FlashFacts flash = flash_of(facts);
    for (const DataType type : {DataType::float32, DataType::float16, DataType::bfloat16, DataType::int8}) {
      const TinyWeights weights(facts, type, "", flash);
      const std::vector<float> pixels = test::random_floats(5 * facts.tile_pixels(), 9);
      VisionEncoder encoder = encoder_of(facts, weights, 2, default_activation_bytes, flash);
      const Judged found = judged(encoder, pixels);
      const Reference reference(facts, weights);
      std::vector<double> scores;
      std::vector<double> compressed;
      for (std::size_t tile = 0; tile < 5; ++tile) {
        const float* of_tile = &pixels[tile * facts.tile_pixels()];
        scores.push_back(reference.score(of_tile, flash));
        for (const auto& row : reference.compressed(of_tile, flash)) {
          compressed.insert(compressed.end(), row.begin(), row.end());
        }
      }
      const auto [least, most] = std::minmax_element(scores.begin(), scores.end());
      CHECK(*least > 0.01 && *most < 0.99 && *most - *least > 0.04);
      // What all scores have in common must not be all that is right about them.
      const double size =
          std::sqrt(std::inner_product(scores.begin(), scores.end(), scores.begin(), 0.0) / 5);
      CHECK(Distance(found.scores, scores).worst * size < (*most - *least) / 2);
      CHECK(Distance(found.scores, scores).within(type));
      CHECK(Distance(found.compressed, compressed).within(type));
      // The router leaves features as they are, and nothing has to be asked of it.
      CHECK(found.features == encoded(encoder, pixels));
      VisionEncoder without = encoder_of(facts, weights, 2);
      CHECK(without.flash() == nullptr && found.features == encoded(without, pixels));
    }
  }
}

TEST("what the router says of a tile are the same bits in every batch and on any number of threads") {
  for (const VisionFacts& facts : {tiny_300m(), tiny_6b()}) {
    const FlashFacts flash = flash_of(facts);
    for (const DataType type : {DataType::float32, DataType::bfloat16, DataType::int8}) {
      const TinyWeights weights(facts, type, "", flash);
      const std::vector<float> pixels = test::random_floats(21 * facts.tile_pixels(), 9);
      const std::size_t tile_bytes = encoder_of(facts, weights, 1, 0, flash).batch().bytes;
      VisionEncoder together = encoder_of(facts, weights, 1, default_activation_bytes, flash);
      const Judged wanted = judged(together, pixels);
      CHECK(together.batch().tiles > 21);
      // Few rows in the router, and more than kernels call few.
      for (const auto& [tiles, threads] :
           {std::pair{std::size_t{1}, 2}, std::pair{std::size_t{5}, 1}, std::pair{std::size_t{17}, 5}}) {
        VisionEncoder encoder = encoder_of(facts, weights, threads, tiles * tile_bytes, flash);
        CHECK(encoder.batch().tiles == tiles);
        CHECK(judged(encoder, pixels) == wanted);
      }
    }
  }
}

TEST("a router's long rows are few, and cost a batch next to nothing") {
  VisionFacts facts = tiny_300m();
  facts.hidden_size = 1024;
  facts.heads = 16;
  facts.intermediate_size = 4096;
  facts.image_size = 448;
  facts.patch_size = 14;
  facts.output_size = 4096;
  const FlashFacts flash{.downsample = 4, .heads = 16, .relative_threshold = 0.5, .absolute_threshold = 0.1};
  const CpuDevice device(std::make_shared<ThreadTeam>(1),
                         Features{Feature::avx2, Feature::avx512, Feature::avx512_bf16});
  const std::size_t inner = 16 * facts.hidden_size;
  for (const VisionStorage& storage :
       {VisionStorage{.floats = true}, VisionStorage{.bfloat16_columns = inner},
        VisionStorage{.integers = true}}) {
    const VisionStorage plain{storage.floats, storage.integers,
                              std::min(storage.bfloat16_columns, facts.intermediate_size)};
    const std::size_t without = vision_batch(facts, {}, 0, plain, device).bytes;
    const std::size_t with = vision_batch(facts, flash, 0, storage, device).bytes;
    CHECK(with > without && with < without + without / 50);
    CHECK(vision_batch(facts, flash, default_activation_bytes, storage, device).tiles == 2);
  }
}

TEST("an encoding with a router is ended between any two of its steps, and leaves the encoder as it was") {
  const VisionFacts facts = tiny_300m();
  const FlashFacts flash = flash_of(facts);
  const TinyWeights weights(facts, DataType::bfloat16, "", flash);
  const std::vector<float> pixels = test::random_floats(3 * facts.tile_pixels(), 9);
  VisionEncoder encoder = encoder_of(facts, weights, 2, 0, flash);
  std::vector<std::size_t> all;
  const Judged whole = judged(encoder, pixels, [&](std::size_t done) { all.push_back(done); });
  // Before each layer and in its middle; before the projector; before the router's two attentions; before the
  // compressed projector; and between the tiles.
  CHECK(all.size() == 3 * (2 * facts.layers + 4) + 2);
  CHECK(std::is_sorted(all.begin(), all.end()) && all.back() == 2);
  for (std::size_t last = 0; last < all.size(); ++last) {
    std::size_t calls = 0;
    const auto stop = [&](std::size_t) {
      if (calls++ == last) throw std::runtime_error("enough");
    };
    CHECK_THROWS(std::runtime_error, judged(encoder, pixels, stop));
    CHECK(calls == last + 1);
  }
  CHECK(judged(encoder, pixels) == whole);
}

TEST("a router's missing tensor and impossible facts are named") {
  const VisionFacts facts = tiny_300m();
  FlashFacts flash = flash_of(facts);
  for (const char* name : {"flash.query", "flash.attention2.qkv.bias", "flash.blocks.3.fc2.weight",
                           "flash.gate.weight", "flash.projector.fc3.weight"}) {
    const TinyWeights weights(facts, DataType::float32, name, flash);
    try {
      encoder_of(facts, weights, 1, 0, flash);
      CHECK(!"a tensor is missing");
    } catch (const BundleError& error) {
      CHECK(std::string(error.what()).find(name) != std::string::npos);
    }
  }
  const TinyWeights complete(facts, DataType::float32, "", flash);
  flash.heads = 7;
  CHECK_THROWS(BundleError, encoder_of(facts, complete, 1, 0, flash));
  flash = flash_of(facts);
  flash.downsample = 3;
  CHECK_THROWS(BundleError, encoder_of(facts, complete, 1, 0, flash));
}

TEST("a missing tensor and impossible facts are named") {
  for (const char* name : {"vit.patch_embedding.weight", "vit.layers.1.norm2.bias", "vit.layers.0.qkv.bias",
                           "vit.layers.1.ls2", "projector.fc2.weight"}) {
    const TinyWeights weights(tiny_300m(), DataType::float32, name);
    try {
      encoder_of(tiny_300m(), weights, 1);
      CHECK(!"a tensor is missing");
    } catch (const BundleError& error) {
      CHECK(std::string(error.what()).find(name) != std::string::npos);
    }
  }
  const TinyWeights weights(tiny_300m(), DataType::int8, "vit.layers.0.fc1.weight.scales");
  CHECK_THROWS(BundleError, encoder_of(tiny_300m(), weights, 1));
  const TinyWeights complete(tiny_300m(), DataType::float32);
  VisionFacts facts = tiny_300m();
  facts.heads = 5;
  CHECK_THROWS(BundleError, encoder_of(facts, complete, 1));
  facts = tiny_300m();
  facts.heads = 18;  // of 4 channels
  CHECK_THROWS(BundleError, encoder_of(facts, complete, 1));
  facts = tiny_300m();
  facts.downsample = 3;
  CHECK_THROWS(BundleError, encoder_of(facts, complete, 1));
  facts = tiny_300m();
  facts.intermediate_size = 101;
  CHECK_THROWS(BundleError, encoder_of(facts, complete, 1));
}

}  // namespace
}  // namespace internvl

int main() { return internvl::test::run_all(); }
