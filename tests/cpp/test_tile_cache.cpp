// Which tiles the cache keeps, what they take, and threads that use it at once.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "generation/tile_cache.h"
#include "runtime/error.h"

namespace internvl {
namespace {

// A tile of so many floats, all of that value.
std::shared_ptr<const EncodedTile> tile(float value, std::size_t floats = 1000) {
  EncodedTile made;
  made.features.assign(floats, value);
  made.score = value;
  return std::make_shared<const EncodedTile>(std::move(made));
}

std::string key(std::size_t number) {
  std::string name = std::to_string(number);
  return std::string(64 - name.size(), '0') + name;
}

// What one tile of 1000 floats takes.
std::size_t bytes_of_one() {
  TileCache cache(std::size_t{1} << 20U);
  cache.keep(key(1), tile(1.0F));
  return cache.bytes();
}

bool has(TileCache& cache, std::size_t number) { return cache.find(key(number)) != nullptr; }

Manifest manifest_of(std::size_t hidden, int tiles) {
  Manifest manifest{};
  manifest.vision.image_size = 448;
  manifest.vision.patch_size = 14;
  manifest.vision.downsample = 2;
  manifest.llm.decoder.hidden_size = hidden;
  manifest.tiling.options.max_tiles = tiles;
  return manifest;
}

TEST("a tile is found as it was kept, and counts with its features and what keeps it") {
  TileCache cache(std::size_t{1} << 20U);
  CHECK(!has(cache, 1));
  CHECK(cache.bytes() == 0);
  EncodedTile both;
  both.features.assign(1000, 2.0F);
  both.compressed.assign(250, 3.0F);
  const auto kept = std::make_shared<const EncodedTile>(both);
  cache.keep(key(1), kept);
  CHECK(cache.find(key(1)) == kept);
  CHECK(!has(cache, 2));
  CHECK(cache.bytes() >= 1250 * sizeof(float) + 64 && cache.bytes() < 1250 * sizeof(float) + 1024);
  cache.keep(key(1), tile(7.0F));  // the same pixels have the same features: the first stay
  CHECK(cache.find(key(1)) == kept && cache.tiles() == 1);
  cache.clear();
  CHECK(!has(cache, 1));
  CHECK(cache.bytes() == 0 && cache.tiles() == 0);
  CHECK(kept->features[0] == 2.0F);
}

TEST("what was not used for the longest time makes room") {
  const std::size_t one = bytes_of_one();
  TileCache cache(3 * one);
  for (std::size_t i = 1; i <= 3; ++i) cache.keep(key(i), tile(1.0F));
  CHECK(cache.bytes() == 3 * one && cache.tiles() == 3);
  CHECK(has(cache, 1));  // and so it was used
  cache.keep(key(4), tile(4.0F));
  CHECK(!has(cache, 2));
  cache.keep(key(3), tile(3.0F));  // again
  cache.keep(key(5), tile(5.0F));
  CHECK(!has(cache, 1));
  CHECK(has(cache, 3) && has(cache, 4) && has(cache, 5));
  cache.keep(key(6), tile(6.0F, 2000));  // takes the room of two
  CHECK(cache.tiles() == 2 && has(cache, 6) && cache.bytes() <= 3 * one);
}

TEST("a cache of no bytes keeps nothing, nor does any keep a tile that is larger than all of it") {
  TileCache off(0);
  off.keep(key(1), tile(1.0F));
  CHECK(!has(off, 1));
  const std::size_t one = bytes_of_one();
  TileCache small(one);
  small.keep(key(1), tile(1.0F));
  small.keep(key(2), tile(2.0F, 1001));
  CHECK(has(small, 1) && !has(small, 2));
}

// A tile whose pixels are all of that value.
std::shared_ptr<const EncodedTile> seen(std::uint8_t value) {
  return std::make_shared<const EncodedTile>(
      EncodedTile{std::vector<float>(10), {}, 0.0F, std::vector<std::uint8_t>(10'000, value)});
}

TEST("a tile is similar to what stood at its place in a picture of the same grid, up to the tolerance") {
  TileCache cache(std::size_t{1} << 20U, 5);
  cache.keep(key(1), seen(100));
  cache.keep(key(2), seen(200));
  const Grid row{2, 1};
  std::vector<std::uint8_t> pixels(10'000, 105);
  CHECK(!cache.find_similar(row, 3, 0, pixels));
  cache.remember({row, {key(1), key(2), key(1)}});
  CHECK(cache.find_similar(row, 3, 0, pixels) == key(1));
  CHECK(cache.find_similar(row, 3, 2, pixels) == key(1));
  CHECK(!cache.find_similar(row, 3, 1, pixels));
  CHECK(!cache.find_similar(row, 2, 0, pixels));  // without a thumbnail
  CHECK(!cache.find_similar({1, 2}, 3, 0, pixels));
  for (const std::size_t place : {std::size_t{0}, std::size_t{4095}, std::size_t{4096}, std::size_t{9999}}) {
    for (const std::uint8_t value : {std::uint8_t{94}, std::uint8_t{106}}) {
      std::vector<std::uint8_t> other = pixels;
      other[place] = value;
      CHECK(!cache.find_similar(row, 3, 0, other));
      other[place] = 95;
      CHECK(cache.find_similar(row, 3, 0, other) == key(1));
    }
  }
  cache.clear();
  CHECK(!cache.find_similar(row, 3, 0, pixels) && cache.bytes() == 0);
}

TEST("without a tolerance nothing is similar, and no picture is remembered") {
  TileCache cache(std::size_t{1} << 20U);
  cache.keep(key(1), seen(100));
  const std::size_t bytes = cache.bytes();
  cache.remember({{1, 1}, {key(1)}});
  CHECK(!cache.compares() && cache.bytes() == bytes);
  CHECK(!cache.find_similar({1, 1}, 1, 0, std::vector<std::uint8_t>(10'000, 100)));
}

TEST("the last four pictures are compared, the latest first, with what the cache still has") {
  TileCache cache(5 * (10'000 + 1000), 10);
  const Grid one{1, 1};
  for (std::size_t i = 0; i < 5; ++i) {
    cache.keep(key(i), seen(static_cast<std::uint8_t>(50 * i)));
    cache.remember({one, {key(i)}});
  }
  const auto similar = [&](std::uint8_t value) {
    return cache.find_similar(one, 1, 0, std::vector<std::uint8_t>(10'000, value));
  };
  CHECK(!similar(0));  // the first of five
  for (std::size_t i = 1; i < 5; ++i) CHECK(similar(static_cast<std::uint8_t>(50 * i - 10)) == key(i));
  cache.keep(key(9), seen(190));
  cache.remember({one, {key(9)}});
  CHECK(similar(195) == key(9));
  CHECK(cache.bytes() <= cache.most_bytes());
  for (std::size_t i = 10; i < 20; ++i) cache.keep(key(i), seen(0));
  CHECK(!similar(195) && cache.bytes() <= cache.most_bytes());
}

TEST("a tolerance is from 0 to 255, and needs a cache") {
  for (const int valid : {0, 1, 255}) check_frame_tolerance(valid, 1);
  check_frame_tolerance(0, 0);
  for (const int wrong : {-1, 256}) CHECK_THROWS(PromptError, check_frame_tolerance(wrong, 1));
  CHECK_THROWS(PromptError, check_frame_tolerance(1, 0));
}

TEST("threads find what belongs to the key, or nothing, and the bytes stay below the bound") {
  const std::size_t most = 5 * bytes_of_one();
  TileCache cache(most);
  std::atomic<std::size_t> wrong{0};
  std::atomic<std::size_t> found{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      for (std::size_t i = 0; i < 2000; ++i) {
        const std::size_t number = random() % 9;
        if (const auto mine = cache.find(key(number))) {
          ++found;
          if (mine->features.size() != 1000 || mine->features[500] != static_cast<float>(number)) ++wrong;
        } else {
          cache.keep(key(number), tile(static_cast<float>(number)));
        }
        if (cache.bytes() > most) ++wrong;
        if (i % 500 == 499) cache.clear();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0 && found > 0);
}

TEST("the default holds two pictures of the most tiles, and stays below a sixteenth of the memory") {
  const std::size_t mega = std::size_t{1} << 20U;
  const std::size_t giga = mega << 10U;
  // 256 tokens of 896 floats, 13 tiles, twice: 23 MB.
  CHECK(tile_cache_bytes(manifest_of(896, 12), {}, 16 * giga) == 64 * mega);
  const std::size_t large = tile_cache_bytes(manifest_of(8192, 12), {}, 16 * giga);
  CHECK(large >= 2 * 13 * 256 * 8192 * sizeof(float) && large < 220 * mega);
  CHECK(tile_cache_bytes(manifest_of(8192, 12), {}, {}) == large);
  CHECK(tile_cache_bytes(manifest_of(896, 12), {}, giga / 2) == 32 * mega);
  CHECK(tile_cache_bytes(manifest_of(896, 12), 0, giga) == 0);
  CHECK(tile_cache_bytes(manifest_of(896, 12), 12345, giga) == 12345);
  CHECK_THROWS(PromptError, tile_cache_bytes(manifest_of(896, 12), -1, giga));
  CHECK_THROWS(DeviceError,
               tile_cache_bytes(manifest_of(896, 12), 2 * static_cast<std::int64_t>(giga), giga));
}

}  // namespace
}  // namespace internvl

int main() { return internvl::test::run_all(); }
