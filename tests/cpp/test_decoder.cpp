#include <array>
#include <atomic>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "devices.h"
#include "kernels/attention/attention.h"
#include "model/decoder.h"
#include "random_weights.h"
#include "temporary_weights.h"

namespace internvl {
namespace {

DecoderFacts tiny_facts() {
  return {.hidden_size = 64,
          .layers = 2,
          .heads = 6,
          .kv_heads = 2,
          .head_dim = 24,
          .intermediate_size = 96,
          .vocab_size = 50,
          .norm_eps = 1e-6F,
          .qkv_bias = true,
          .qk_norm = true,
          .rope = {1e4, false, 1.0, 4096}};
}

// A weight file of a tiny model: matrices of one type, vectors of fp32.
class TinyWeights {
 public:
  explicit TinyWeights(DataType type, const std::string& without = "") : written_(without) {
    const DecoderFacts facts = tiny_facts();
    matrix("llm.embed_tokens.weight", DataType::bfloat16, facts.vocab_size, facts.hidden_size);
    matrix("llm.lm_head.weight", type, facts.vocab_size, facts.hidden_size);
    vector("llm.norm.weight", facts.hidden_size);
    for (std::size_t i = 0; i < facts.layers; ++i) {
      const std::string layer = "llm.layers." + std::to_string(i) + ".";
      vector(layer + "attention_norm.weight", facts.hidden_size);
      matrix(layer + "qkv.weight", type, facts.qkv_rows(), facts.hidden_size);
      vector(layer + "qkv.bias", facts.qkv_rows());
      vector(layer + "q_norm.weight", facts.head_dim);
      vector(layer + "k_norm.weight", facts.head_dim);
      // 144 columns are not a multiple of 32.
      matrix(layer + "o_proj.weight", type == DataType::int4 ? DataType::int8 : type, facts.hidden_size,
             facts.heads * facts.head_dim);
      vector(layer + "mlp_norm.weight", facts.hidden_size);
      matrix(layer + "gate_up.weight", type, 2 * facts.intermediate_size, facts.hidden_size);
      matrix(layer + "down.weight", type, facts.hidden_size, facts.intermediate_size);
    }
    written_.write();
  }

  std::shared_ptr<const WeightFile> file() const { return written_.file(); }

 private:
  void matrix(const std::string& name, DataType type, std::size_t rows, std::size_t columns) {
    const test::RandomWeights w(type, rows, columns, ++seed_);
    const auto n = static_cast<std::int64_t>(rows);
    const auto k = static_cast<std::int64_t>(columns);
    written_.put(name, type, {n, k}, w.values_bytes);
    if (type == DataType::int8) written_.put(name + ".scales", DataType::float32, {n}, w.scales_bytes);
    if (type == DataType::int4)
      written_.put(name + ".scales", DataType::float16, {n, k / 32}, w.scales_bytes);
  }
  void vector(const std::string& name, std::size_t size) {
    const test::RandomWeights w(DataType::float32, 1, size, ++seed_);
    written_.put(name, DataType::float32, {static_cast<std::int64_t>(size)}, w.values_bytes);
  }

  test::TemporaryWeights written_;
  unsigned seed_ = 0;
};

std::unique_ptr<Decoder> decoder_of(const TinyWeights& weights, std::size_t tokens = 2048,
                                    std::size_t chunk = 32, int threads = 2) {
  return std::make_unique<Decoder>(tiny_facts(), weights.file(), test::cpu(threads),
                                   DecoderOptions{tokens, CacheType::float32, chunk});
}

std::vector<float> embeddings_of(std::size_t n, unsigned seed = 1) {
  return test::random_floats(n * tiny_facts().hidden_size, seed);
}

std::vector<float> prefilled(Decoder& decoder, SequenceId sequence, const std::vector<float>& embeddings,
                             bool all = true, const Decoder::Progress& progress = {}) {
  const std::size_t n = embeddings.size() / tiny_facts().hidden_size;
  std::vector<float> logits((all ? n : 1) * tiny_facts().vocab_size);
  decoder.prefill(sequence, embeddings.data(), n, all, logits.data(), progress);
  return logits;
}

std::vector<float> decoded(Decoder& decoder, const std::vector<SequenceId>& sequences,
                           const std::vector<std::int64_t>& tokens) {
  std::vector<float> logits(sequences.size() * tiny_facts().vocab_size);
  decoder.decode(sequences, tokens, logits.data());
  return logits;
}

TEST("prefill in chunks, decode and company give the same bits, for every weight type") {
  const std::size_t vocab = tiny_facts().vocab_size;
  for (const DataType type : test::weight_types) {
    const TinyWeights weights(type);
    const auto whole = decoder_of(weights, 2048, 700, 1);
    const auto chunked = decoder_of(weights, 2048, 19, 3);
    // Once over two spans of attention.
    std::vector<float> start = embeddings_of(type == DataType::float32 ? 530 : 90);
    const std::vector<std::int64_t> tokens{4, 8, 15, 16, 23, 42};
    const SequenceId a = chunked->new_sequence();
    std::vector<float> stepwise = prefilled(*chunked, a, start);
    const SequenceId beside = chunked->fork(a, chunked->length(a));
    for (const std::int64_t token : tokens) {
      const bool alone = token % 2 != 0;
      const std::vector<float> rows =
          alone ? decoded(*chunked, {a}, {token}) : decoded(*chunked, {beside, a}, {1, token});
      stepwise.insert(stepwise.end(), rows.end() - static_cast<std::ptrdiff_t>(vocab), rows.end());
    }
    std::vector<float> more(tokens.size() * tiny_facts().hidden_size);
    whole->embed(tokens, nullptr, 0, -1, more.data());
    start.insert(start.end(), more.begin(), more.end());
    const std::vector<float> at_once = prefilled(*whole, whole->new_sequence(), start);
    CHECK(at_once.size() == stepwise.size());
    for (std::size_t i = 0; i < at_once.size(); ++i)
      CHECK(std::isfinite(at_once[i]) && at_once[i] == stepwise[i]);
  }
}

TEST("runs of tokens give the bits that the same tokens give one by one, for every weight type") {
  const std::size_t vocab = tiny_facts().vocab_size;
  for (const DataType type : test::weight_types) {
    const TinyWeights weights(type);
    const auto decoder = decoder_of(weights, 4096, 32);  // so many rows of a run are computed at once
    for (const std::vector<std::size_t>& counts :
         {std::vector<std::size_t>{1, 5, 1, 1}, {70, 1, 40}, {3}, {32, 32}, {1, 1, 31, 65}}) {
      std::vector<SequenceId> sequences;
      std::vector<std::int64_t> tokens;
      std::vector<float> wanted;
      for (std::size_t i = 0; i < counts.size(); ++i) {
        sequences.push_back(decoder->new_sequence());
        prefilled(*decoder, sequences[i], embeddings_of(20 * i + 3, static_cast<unsigned>(i)));
        const SequenceId alone = decoder->fork(sequences[i], decoder->length(sequences[i]));
        std::vector<float> row;
        for (std::size_t j = 0; j < counts[i]; ++j) {
          tokens.push_back(static_cast<std::int64_t>((7 * i + 3 * j) % vocab));
          row = decoded(*decoder, {alone}, {tokens.back()});
        }
        wanted.insert(wanted.end(), row.begin(), row.end());
      }
      std::vector<float> found(sequences.size() * vocab);
      decoder->decode(sequences, tokens, counts, found.data());
      CHECK(found == wanted);
      // What they left in the cache is right too.
      for (std::size_t i = 0; i < counts.size(); ++i) {
        const SequenceId beside = sequences[i] + 1;
        CHECK(decoder->length(sequences[i]) == 20 * i + 3 + counts[i]);
        CHECK(decoded(*decoder, {sequences[i]}, {1}) == decoded(*decoder, {beside}, {1}));
        decoder->drop(sequences[i]);
        decoder->drop(beside);
      }
    }
  }
}

TEST("a prefill that is ended between any two layers leaves its sequence as it was") {
  const TinyWeights weights(DataType::int8);
  const auto decoder = decoder_of(weights);
  const SequenceId sequence = decoder->new_sequence();
  prefilled(*decoder, sequence, embeddings_of(40));
  const std::size_t free = decoder->free_tokens();
  std::vector<std::size_t> all;
  const std::vector<float> whole =
      prefilled(*decoder, decoder->fork(sequence, decoder->length(sequence)), embeddings_of(100, 3), false,
                [&](std::size_t done) { all.push_back(done); });
  // Chunks of 32 with two layers each: between the layers and between the chunks, and before the output
  // matrix.
  CHECK((all == std::vector<std::size_t>{0, 32, 32, 64, 64, 96, 96, 96}));
  for (std::size_t last = 0; last < all.size(); ++last) {
    std::size_t calls = 0;
    const auto stop = [&](std::size_t done) {
      CHECK(done == all[calls] && decoder->length(sequence) == 40);
      CHECK_THROWS(PromptError, decoder->drop(sequence));
      if (calls++ == last) throw std::runtime_error("enough");
    };
    const std::size_t before = decoder->free_tokens();
    CHECK_THROWS(std::runtime_error, prefilled(*decoder, sequence, embeddings_of(100, 3), false, stop));
    CHECK(decoder->length(sequence) == 40 && decoder->free_tokens() == before && before < free);
  }
  CHECK(prefilled(*decoder, sequence, embeddings_of(100, 3), false) == whole);
}

TEST("tokens are decoded between the layers of a prefill, and neither changes a bit of the other") {
  const TinyWeights weights(DataType::int4);
  const auto decoder = decoder_of(weights);
  const SequenceId alone = decoder->new_sequence();
  const SequenceId other = decoder->new_sequence();
  const std::vector<float> wanted = prefilled(*decoder, alone, embeddings_of(100));
  prefilled(*decoder, other, embeddings_of(50, 7));
  const SequenceId same = decoder->fork(other, decoder->length(other));
  std::vector<float> beside;
  std::vector<float> apart;
  std::int64_t token = 0;
  const auto decode_one = [&](std::size_t) {
    const std::vector<float> row = decoded(*decoder, {other}, {token++});
    beside.insert(beside.end(), row.begin(), row.end());
  };
  CHECK(prefilled(*decoder, decoder->new_sequence(), embeddings_of(100), true, decode_one) == wanted);
  CHECK(token >= 8);
  for (std::int64_t again = 0; again < token; ++again) {
    const std::vector<float> row = decoded(*decoder, {same}, {again});
    apart.insert(apart.end(), row.begin(), row.end());
  }
  CHECK(beside == apart);
}

TEST("a prefill that waits for another one can be ended") {
  const TinyWeights weights(DataType::float32);
  const auto decoder = decoder_of(weights);
  std::vector<float> logits(tiny_facts().vocab_size);
  std::atomic<bool> ended{false};
  std::thread waiting;
  const auto first = [&](std::size_t) {
    if (waiting.joinable()) return;
    waiting = std::thread([&] {
      const SequenceId sequence = decoder->new_sequence();
      CHECK_THROWS(std::runtime_error, prefilled(*decoder, sequence, embeddings_of(1), false,
                                                 [](std::size_t) { throw std::runtime_error("enough"); }));
      CHECK(decoder->length(sequence) == 0);
      ended = true;
    });
    while (!ended) std::this_thread::yield();  // this prefill goes on when that one has given up
  };
  prefilled(*decoder, decoder->new_sequence(), embeddings_of(40), false, first);
  waiting.join();
  CHECK(ended);
}

TEST("a call that does not fit is a cache error and changes nothing") {
  const TinyWeights weights(DataType::int8);
  const auto decoder = decoder_of(weights, 2 * cache_block);
  CHECK(decoder->cache_tokens() == 2 * cache_block);
  const SequenceId a = decoder->new_sequence();
  const SequenceId b = decoder->new_sequence();
  prefilled(*decoder, a, embeddings_of(cache_block));
  prefilled(*decoder, b, embeddings_of(cache_block));
  CHECK_THROWS(CacheFullError, decoded(*decoder, {a, b}, {1, 2}));
  CHECK_THROWS(CacheFullError, prefilled(*decoder, a, embeddings_of(1)));
  CHECK(decoder->length(a) == cache_block && decoder->length(b) == cache_block);
  decoder->drop(b);
  decoded(*decoder, {a}, {1});
  CHECK(decoder->length(a) == cache_block + 1);
}

TEST("tokens, counts and sequences that do not fit are prompt errors and change nothing") {
  const TinyWeights weights(DataType::float32);
  const auto decoder = decoder_of(weights);
  const SequenceId sequence = decoder->new_sequence();
  const SequenceId other = decoder->new_sequence();
  const auto vocab = static_cast<std::int64_t>(tiny_facts().vocab_size);
  for (const std::int64_t token : {std::int64_t{-1}, vocab, std::int64_t{1} << 40}) {
    CHECK_THROWS(PromptError, decoded(*decoder, {sequence}, {token}));
  }
  CHECK_THROWS(PromptError, decoded(*decoder, {sequence, sequence}, {1, 2}));
  CHECK_THROWS(PromptError, decoded(*decoder, {sequence}, {1, 2}));
  CHECK_THROWS(PromptError, decoded(*decoder, {}, {}));
  CHECK_THROWS(PromptError, decoded(*decoder, {99}, {1}));
  const std::vector<SequenceId> both{sequence, other};
  const std::vector<std::int64_t> three{1, 2, 3};
  std::vector<float> logits(2 * tiny_facts().vocab_size);
  const std::size_t huge = ~std::size_t{0};
  for (const std::vector<std::size_t>& counts :
       {std::vector<std::size_t>{3}, {1, 1}, {2, 2}, {3, 0}, {0, 3}, {1, 1, 1}, {huge, 4}, {}}) {
    CHECK_THROWS(PromptError, decoder->decode(both, three, counts, logits.data()));
  }
  CHECK(decoder->length(other) == 0);
  CHECK_THROWS(PromptError, prefilled(*decoder, 99, embeddings_of(1)));
  CHECK_THROWS(PromptError, prefilled(*decoder, sequence, {}));
  CHECK(decoder->length(sequence) == 0 && decoder->free_tokens() == decoder->cache_tokens());
  std::vector<float> out(3 * tiny_facts().hidden_size);
  const std::vector<std::int64_t> tokens{1, 7, 2};
  const std::vector<float> features = embeddings_of(2);
  CHECK_THROWS(PromptError, decoder->embed(tokens, nullptr, 0, 7, out.data()));
  CHECK_THROWS(PromptError, decoder->embed(tokens, features.data(), 2, 7, out.data()));
  decoder->embed(tokens, features.data(), 1, 7, out.data());
  for (std::size_t i = 0; i < tiny_facts().hidden_size; ++i)
    CHECK(out[tiny_facts().hidden_size + i] == features[i]);
}

TEST("weights that are not what the facts ask for are bundle errors") {
  const TinyWeights missing(DataType::int4, "llm.layers.1.down.weight.scales");
  CHECK_THROWS(BundleError, decoder_of(missing));
  const TinyWeights weights(DataType::float16);
  const auto load = [&](const DecoderFacts& facts) {
    return std::make_unique<Decoder>(facts, weights.file(), test::cpu(1), DecoderOptions{64});
  };
  load(tiny_facts());
  DecoderFacts facts = tiny_facts();
  facts.vocab_size = 51;
  CHECK_THROWS(BundleError, load(facts));
  facts = tiny_facts();
  facts.layers = 3;
  CHECK_THROWS(BundleError, load(facts));
  facts = tiny_facts();
  facts.head_dim = 20;
  CHECK_THROWS(BundleError, load(facts));
  facts = tiny_facts();
  facts.kv_heads = 4;
  CHECK_THROWS(BundleError, load(facts));
}

TEST("several threads share one decoder") {
  const TinyWeights weights(DataType::int4);
  const auto decoder = decoder_of(weights, 4096, 16);
  const auto answer = [&](unsigned seed) {
    const SequenceId sequence = decoder->new_sequence();
    std::vector<float> logits =
        prefilled(*decoder, sequence, embeddings_of(40 + seed, seed), false, [](std::size_t) {});
    for (std::int64_t token = 0; token < 4; ++token) {
      const std::vector<float> row = decoded(*decoder, {sequence}, {token + seed});
      logits.insert(logits.end(), row.begin(), row.end());
    }
    decoder->drop(sequence);
    return logits;
  };
  std::array<std::vector<float>, 4> wanted;
  std::array<std::vector<float>, 4> found;
  for (unsigned i = 0; i < 4; ++i) wanted[i] = answer(i);
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 4; ++i) threads.emplace_back([&, i] { found[i] = answer(i); });
  for (std::thread& thread : threads) thread.join();
  CHECK(found == wanted);
  CHECK(decoder->free_tokens() == decoder->cache_tokens());
}

}  // namespace
}  // namespace internvl

int main() { return internvl::test::run_all(); }
