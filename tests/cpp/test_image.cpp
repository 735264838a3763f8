#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "check.h"
#include "image/pixel_values.h"
#include "image/resample_filter.h"
#include "image/tile.h"
#include "ops/cpu/pixel_shuffle.h"

namespace internvl {
namespace {

// Numbers that look random and are the same everywhere.
class Noise {
 public:
  std::uint8_t next() {
    state_ = state_ * 6364136223846793005U + 1442695040888963407U;
    return static_cast<std::uint8_t>(state_ >> 56);
  }

 private:
  std::uint64_t state_ = 1;
};

struct Picture {
  Picture(std::int64_t picture_width, std::int64_t picture_height)
      : width(picture_width), height(picture_height), pixels(width * height * 3) {
    Noise noise;
    // A third of the values at the ends of the range, where the filter overshoots.
    for (std::uint8_t& value : pixels) {
      const std::uint8_t kind = noise.next();
      value = kind < 43 ? 0 : kind < 86 ? 255 : noise.next();
    }
  }

  ImageView view() const { return {pixels.data(), height, width, width * 3}; }
  std::uint8_t at(std::int64_t x, std::int64_t y, std::size_t c) const {
    return pixels[(y * width + x) * 3 + c];
  }

  std::int64_t width;
  std::int64_t height;
  std::vector<std::uint8_t> pixels;
};

// One weighted sum of a pass, from the weights as a list of whole numbers.
std::uint8_t plain_sum(const ResampleFilter& filter, std::size_t output, auto&& value_at) {
  std::int64_t sum = 1 << (weight_bits - 1);
  for (std::size_t i = 0; i < 2 * static_cast<std::size_t>(filter.taps(output).pairs); ++i) {
    const TapPair& pair = filter.weights(output)[i / 2];
    const std::int64_t weight = pair.high[i % 2] * 65536 + pair.low[i % 2];
    const std::size_t position = filter.first(output) + i;
    if (position < filter.source()) sum += weight * value_at(position);
  }
  return static_cast<std::uint8_t>(std::clamp<std::int64_t>(sum >> weight_bits, 0, 255));
}

Picture plain_resize(const Picture& picture, std::int64_t width, std::int64_t height) {
  if (picture.height > 100 * picture.width && height < picture.height && width != picture.width) {
    return plain_resize(plain_resize(picture, picture.width, height), width, height);
  }
  Picture across(width, picture.height);
  if (width == picture.width) {
    across.pixels = picture.pixels;
  } else {
    const ResampleFilter filter(picture.width, width);
    for (std::int64_t y = 0; y < picture.height; ++y) {
      for (std::int64_t x = 0; x < width; ++x) {
        for (std::size_t c = 0; c < 3; ++c) {
          across.pixels[(y * width + x) * 3 + c] = plain_sum(
              filter, x, [&](std::size_t i) { return picture.at(static_cast<std::int64_t>(i), y, c); });
        }
      }
    }
  }
  if (height == picture.height) return across;
  Picture result(width, height);
  const ResampleFilter filter(picture.height, height);
  for (std::int64_t y = 0; y < height; ++y) {
    for (std::int64_t x = 0; x < width; ++x) {
      for (std::size_t c = 0; c < 3; ++c) {
        result.pixels[(y * width + x) * 3 + c] = plain_sum(
            filter, y, [&](std::size_t i) { return across.at(x, static_cast<std::int64_t>(i), c); });
      }
    }
  }
  return result;
}

std::vector<std::uint8_t> plain_tiles(const Picture& picture, const TilePlan& plan) {
  const std::int64_t side = plan.tile_size;
  std::vector<std::uint8_t> tiles;
  const auto append = [&](const Picture& from, std::int64_t left, std::int64_t top) {
    for (std::int64_t y = top; y < top + side; ++y) {
      const auto row = from.pixels.begin() + (y * from.width + left) * 3;
      tiles.insert(tiles.end(), row, row + side * 3);
    }
  };
  const Picture resized = plain_resize(picture, side * plan.grid.columns, side * plan.grid.rows);
  for (int tile = 0; tile < plan.grid.tiles(); ++tile) {
    append(resized, tile % plan.grid.columns * side, tile / plan.grid.columns * side);
  }
  if (plan.thumbnail) append(plain_resize(picture, side, side), 0, 0);
  return tiles;
}

TEST("weights sum to one, lie inside the source, and fit the kernels' pairs") {
  const auto check_filter = [](std::size_t source, std::size_t outputs) {
    const ResampleFilter filter(source, outputs);
    CHECK(filter.outputs() == outputs && filter.source() == source);
    for (std::size_t output = 0; output < outputs; ++output) {
      double sum = 0;
      for (std::size_t i = 0; i < filter.taps(output).pairs; ++i) {
        const TapPair& pair = filter.weights(output)[i];
        for (const int half : {0, 1}) {
          sum += pair.high[half] * 65536.0 + pair.low[half];
          CHECK(pair.high[half] == pair.high[half + 2]);
        }
        CHECK(std::abs(pair.high[0]) + std::abs(pair.high[1]) <= 128);
      }
      const auto taps = static_cast<double>(2 * filter.taps(output).pairs);
      CHECK(std::abs(sum / (1 << weight_bits) - 1) <= taps / (1 << weight_bits));
      CHECK(filter.first(output) < filter.end(output) && filter.end(output) <= source);
      CHECK(output == 0 || (filter.first(output) >= filter.first(output - 1) &&
                            filter.end(output) + 1 >= filter.end(output - 1)));
    }
  };
  for (std::size_t source = 1; source < 70; ++source) {
    for (std::size_t outputs = 1; outputs < 70; ++outputs) check_filter(source, outputs);
  }
  for (const std::size_t source : {1, 2, 3, 447, 449, 1080, 1920, 65536, 1 << 20}) {
    for (const std::size_t outputs : {2, 448, 896, 5376}) check_filter(source, outputs);
  }
}

TEST("a cubic filter's weights are the textbook's") {
  // Enlarging twice: the centre of output 2 lies a quarter before the centre of position 1.
  const ResampleFilter filter(10, 20);
  CHECK(filter.first(4) == 0 && filter.taps(4).pairs == 2);
  const double expected[] = {-0.0234375, 0.2265625, 0.8671875, -0.0703125};
  for (std::size_t i = 0; i < 4; ++i) {
    const TapPair& pair = filter.weights(4)[i / 2];
    CHECK(pair.high[i % 2] * 65536 + pair.low[i % 2] == std::lround(expected[i] * (1 << weight_bits)));
  }
}

TEST("tiles equal a plain loop over the weights, for every number of threads") {
  const int sizes[][4] = {// width, height, tile size, most tiles
                          {1, 1, 14, 1},    {1, 90, 14, 12},   {90, 1, 14, 12},  {33, 31, 16, 6},
                          {100, 37, 22, 9}, {64, 64, 64, 4},   {128, 64, 64, 2}, {64, 130, 64, 2},
                          {130, 64, 64, 2}, {57, 300, 30, 12}, {700, 9, 30, 7},  {341, 256, 34, 12},
                          {2, 200, 14, 12}, {2, 201, 14, 12},  {1, 101, 14, 4},  {20, 2100, 20, 3}};
  for (const auto& size : sizes) {
    const Picture picture(size[0], size[1]);
    const TilePlan plan = plan_tiles(size[0], size[1], {size[2], 1, size[3], true, true});
    const std::vector<std::uint8_t> expected = plain_tiles(picture, plan);
    for (const int threads : {1, 2, 3}) {
      ThreadTeam team(threads);
      std::vector<std::uint8_t> tiles(expected.size());
      write_tiles(picture.view(), plan, tiles.data(), team);
      CHECK(tiles == expected);
    }
  }
}

TEST("pixel values equal the steps of the normalisation, one by one, and nothing behind the tiles is read") {
  const std::array<double, 3> mean{0.485, 0.456, 0.406};
  const std::array<double, 3> deviation{0.229, 0.224, 0.225};
  const Normalisation normalisation = make_normalisation(mean, deviation);
  for (const int threads : {1, 2}) {
    ThreadTeam team(threads);
    for (std::size_t side = 1; side < 45; ++side) {
      const std::size_t plane = side * side;
      const std::vector<std::uint8_t> tiles = Picture(static_cast<std::int64_t>(3 * side), side).pixels;
      std::vector<float> values(tiles.size());
      write_pixel_values(tiles.data(), 3, side, normalisation, values.data(), team);
      std::size_t wrong = 0;
      for (std::size_t i = 0; i < tiles.size(); ++i) {
        const std::size_t c = i % 3;
        const float scaled = static_cast<float>(tiles[i]) / 255.0F;
        const float expected = (scaled - static_cast<float>(mean[c])) / static_cast<float>(deviation[c]);
        wrong +=
            static_cast<std::size_t>(values[(i / 3 / plane * 3 + c) * plane + i / 3 % plane] != expected);
      }
      CHECK(wrong == 0);
    }
  }
}

TEST("nothing is read or written outside of the rows") {
  // Exact buffers, for the address sanitizer; rows from the last to the first, for the arithmetic.
  ThreadTeam team(1);
  for (std::int64_t width = 1; width < 40; ++width) {
    const Picture picture(width, 3);
    const TilePlan plan = plan_tiles(width, 3, {18, 1, 3, true, true});
    const ImageView upside_down{picture.pixels.data() + 2 * width * 3, 3, width, -width * 3};
    Picture flipped = picture;
    for (std::int64_t y = 0; y < 3; ++y) {
      std::memcpy(flipped.pixels.data() + y * width * 3, picture.pixels.data() + (2 - y) * width * 3,
                  width * 3);
    }
    const std::vector<std::uint8_t> expected = plain_tiles(flipped, plan);
    std::vector<std::uint8_t> tiles(expected.size());
    write_tiles(upside_down, plan, tiles.data(), team);
    CHECK(tiles == expected);
  }
}

TEST("sizes, options and normalisations out of range are image errors") {
  const TilingOptions valid{448, 1, 12, true, true};
  CHECK(plan_tiles(1920, 1080, valid).tiles() == 9);
  CHECK_THROWS(ImageError, plan_tiles(0, 10, valid));
  CHECK_THROWS(ImageError, plan_tiles(10, max_image_side + 1, valid));
  CHECK_THROWS(ImageError, plan_tiles(10, 10, {447, 1, 12, true, true}));
  CHECK_THROWS(ImageError, plan_tiles(10, 10, {448, 1, 0, true, true}));
  CHECK_THROWS(ImageError, plan_tiles(10, 10, {448, 13, 12, true, true}));
  CHECK_THROWS(ImageError, make_normalisation({0, 0, 0}, {1, 0, 1}));
  CHECK_THROWS(ImageError, make_normalisation({0, NAN, 0}, {1, 1, 1}));
}

TEST("pixel shuffle puts blocks side by side and drops the class token") {
  const PixelShuffleShape shape{2, 6, 5, 3};
  std::vector<float> in(2 * 37 * 5);
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i);
  for (const int threads : {1, 3}) {
    ThreadTeam team(threads);
    for (const PixelShuffleVersion version : {PixelShuffleVersion::v1, PixelShuffleVersion::v2}) {
      std::vector<float> out(2 * 4 * 45);
      pixel_shuffle(in, shape, version, out, team);
      for (std::size_t i = 0; i < out.size(); ++i) {
        const std::size_t token = i / 45 % 4;
        const std::size_t block_row = version == PixelShuffleVersion::v2 ? token / 2 : token % 2;
        const std::size_t block_column = version == PixelShuffleVersion::v2 ? token % 2 : token / 2;
        const std::size_t row = block_row * 3 + i % 45 / 15;
        const std::size_t column = block_column * 3 + i % 15 / 5;
        CHECK(out[i] == in[(i / 180 * 37 + 1 + row * 6 + column) * 5 + i % 5]);
      }
    }
  }
  ThreadTeam team(1);
  std::vector<float> out(360);
  CHECK_THROWS(ImageError, pixel_shuffle(in, {2, 6, 5, 4}, PixelShuffleVersion::v2, out, team));
  CHECK_THROWS(ImageError, pixel_shuffle(in, {2, 6, 5, 2}, PixelShuffleVersion::v2, {out.data(), 7}, team));
}

}  // namespace
}  // namespace internvl

int main() { return internvl::test::run_all(); }
