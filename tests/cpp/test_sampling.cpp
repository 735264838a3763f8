#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "check.h"
#include "generation/philox.h"
#include "generation/sampler.h"

namespace internvl {
namespace {

using Words = std::array<std::uint32_t, 4>;

TEST("Philox gives the published numbers") {
  CHECK((philox({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const std::uint32_t ones = 0xffffffff;
  CHECK((philox({ones, ones, ones, ones}, {ones, ones}) ==
         Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  CHECK((philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
         Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST("uniform numbers lie in [0, 1) and spread evenly") {
  RandomStream stream(42);
  std::vector<int> counts(10);
  for (int i = 0; i < 100000; ++i) {
    const double number = stream.uniform();
    CHECK(number >= 0.0 && number < 1.0);
    ++counts[static_cast<std::size_t>(number * 10)];
  }
  for (const int count : counts) CHECK(std::abs(count - 10000) < 500);
}

TEST("a position in the distribution is a token, whatever its rounding") {
  TokenDistribution distribution;
  const std::vector<float> logits{-std::numeric_limits<float>::infinity(), 0.0F, std::log(3.0F), -1000.0F};
  distribution.set(logits, {}, {});
  CHECK(std::abs(distribution.total() - 4.0 / 3.0) < 1e-6);
  CHECK(distribution.token_at(0.0) == 1);
  CHECK(distribution.token_at(0.2499) == 1);
  CHECK(distribution.token_at(0.2501) == 2);
  CHECK(distribution.token_at(std::nextafter(1.0, 0.0)) == 2);
}

TEST("the best token is found wherever it is, in a vocabulary of any length") {
  for (std::size_t size = 1; size < 70; ++size) {
    for (std::size_t best = 0; best < size; ++best) {
      std::vector<float> logits(size, -1.0F);
      logits[best] = 2.0F;
      CHECK(argmax(logits, 1.0F, {}) == static_cast<std::int64_t>(best));
      TokenDistribution distribution;
      distribution.set(logits, {.top_k = 1}, {});
      CHECK(distribution.token_at(0.999) == static_cast<std::int64_t>(best));
      distribution.set(logits, {.top_p = 0.0F}, {});
      CHECK(distribution.token_at(0.999) == static_cast<std::int64_t>(best));
    }
  }
}

TEST("a penalty counts once however often a token occurs") {
  const std::vector<float> logits{2.0F, 1.5F, -1.0F, -1.1F};
  const std::vector<std::int64_t> history{0, 0, 0, 2, 2, 9};
  CHECK(argmax(logits, 1.0F, history) == 0);
  CHECK(argmax(logits, 1.2F, history) == 0);  // 2 / 1.2 > 1.5
  CHECK(argmax(logits, 1.4F, history) == 1);
}

TEST("a token that was skipped takes the random number that drawing it would have taken") {
  const std::vector<float> one{0.0F, -std::numeric_limits<float>::infinity()};
  const std::vector<float> many(1000, 0.0F);
  Sampler drawn(7);
  Sampler skipped(7);
  std::int64_t moved = 0;
  for (int i = 0; i < 50; ++i) {
    if (i % 3 == 0) {
      CHECK(drawn.sample(one, {}, {}) == 0);
      skipped.skip();
    }
    const std::int64_t token = drawn.sample(many, {}, {});
    CHECK(skipped.sample(many, {}, {}) == token);
    moved += token;
  }
  CHECK(moved > 0);
}

TEST("what is not a distribution is an error") {
  const std::vector<float> numbers{0.0F, 1.0F};
  const std::vector<float> not_numbers{0.0F, NAN};
  const std::vector<std::int64_t> negative{-1};
  Sampler sampler(1);
  CHECK_THROWS(Error, sampler.sample(not_numbers, {}, {}));
  CHECK_THROWS(Error, sampler.sample({}, {}, {}));
  CHECK_THROWS(Error, argmax({}, 1.0F, {}));
  CHECK_THROWS(PromptError, sampler.sample(numbers, {.temperature = 0.0F}, {}));
  CHECK_THROWS(PromptError, sampler.sample(numbers, {.top_p = NAN}, {}));
  CHECK_THROWS(PromptError, sampler.sample(numbers, {.top_k = -1}, {}));
  CHECK_THROWS(PromptError, argmax(numbers, 2.0F, negative));
}

}  // namespace
}  // namespace internvl

int main() { return internvl::test::run_all(); }
