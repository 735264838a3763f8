#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "image/camera_formats.h"

namespace internvl {
namespace {

using Bytes = std::vector<std::uint8_t>;

Bytes random_bytes(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  Bytes bytes(size);
  for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random() & 0xFF);
  return bytes;
}

// YUV as its definition has it, in fp64: Y' = Kr R + Kg G + Kb B, Cb and Cr the differences from it that span
// -0.5 to 0.5; in 219 and 224 steps in limited range, in 255 in full range.
struct Exact {
  Exact(int y, int u, int v, YuvMatrix matrix = YuvMatrix::bt601, YuvRange range = YuvRange::limited) {
    const bool limited = range == YuvRange::limited;
    const double luma = limited ? std::max(y - 16, 0) / 219.0 : y / 255.0;
    const double blue_difference = (u - 128) / (limited ? 224.0 : 255.0);
    const double red_difference = (v - 128) / (limited ? 224.0 : 255.0);
    const double kr = matrix == YuvMatrix::bt601 ? 0.299 : 0.2126;
    const double kb = matrix == YuvMatrix::bt601 ? 0.114 : 0.0722;
    const double r = luma + 2 * (1 - kr) * red_difference;
    const double b = luma + 2 * (1 - kb) * blue_difference;
    const double g = (luma - kr * r - kb * b) / (1 - kr - kb);
    channels[0] = std::clamp(255 * r, 0.0, 255.0);
    channels[1] = std::clamp(255 * g, 0.0, 255.0);
    channels[2] = std::clamp(255 * b, 0.0, 255.0);
  }
  double channels[3];
};

// Rounded once from coefficients of 16 fractional bits: the four products add less than 0.004 to that half.
bool is_near(const std::uint8_t* rgb, const Exact& exact) {
  for (int c = 0; c < 3; ++c) {
    if (std::abs(rgb[c] - exact.channels[c]) > 0.504) return false;
  }
  return true;
}

TEST("yuyv of every Y, U and V on a lattice is what either matrix and range say") {
  for (const YuvMatrix matrix : {YuvMatrix::bt601, YuvMatrix::bt709}) {
    for (const YuvRange range : {YuvRange::limited, YuvRange::full}) {
      std::size_t far = 0;
      for (int y = 0; y < 256; y += 5) {
        for (int u = 0; u < 256; u += 15) {
          for (int v = 0; v < 256; v += 15) {
            const Bytes frame{static_cast<std::uint8_t>(y), static_cast<std::uint8_t>(u),
                              static_cast<std::uint8_t>(255 - y), static_cast<std::uint8_t>(v)};
            const Bytes rgb = rgb_of({.data = frame.data(),
                                      .width = 2,
                                      .height = 1,
                                      .format = PixelFormat::yuyv,
                                      .matrix = matrix,
                                      .range = range});
            if (!is_near(rgb.data(), Exact(y, u, v, matrix, range))) ++far;
            if (!is_near(rgb.data() + 3, Exact(255 - y, u, v, matrix, range))) ++far;
          }
        }
      }
      CHECK(far == 0);
    }
  }
}

TEST("black, white and grey are what they are") {
  for (const auto& [y, expected] : {std::pair{16, 0}, {235, 255}, {126, 128}, {0, 0}, {255, 255}}) {
    const Bytes frame{static_cast<std::uint8_t>(y), 128, static_cast<std::uint8_t>(y), 128};
    const Bytes rgb = rgb_of({frame.data(), 2, 1, PixelFormat::yuyv});
    CHECK(std::ranges::all_of(rgb, [&](std::uint8_t value) { return value == expected; }));
  }
}

TEST("nv12 of odd sizes and any strides has a pair of U and V for every two by two pixels") {
  for (const std::int64_t width : {1, 2, 5, 8}) {
    for (const std::int64_t height : {1, 2, 3, 6}) {
      for (const std::int64_t padding : {0, 7}) {
        const std::int64_t stride = width + 1 + padding;
        const std::int64_t chroma_stride = (width + 1) / 2 * 2 + padding;
        const Bytes luma = random_bytes(static_cast<std::size_t>(stride * height), 1);
        const Bytes chroma = random_bytes(static_cast<std::size_t>(chroma_stride * ((height + 1) / 2)), 2);
        const Bytes rgb =
            rgb_of({luma.data(), width, height, PixelFormat::nv12, stride, chroma.data(), chroma_stride});
        CHECK(rgb.size() == static_cast<std::size_t>(width * height * 3));
        for (std::int64_t y = 0; y < height; ++y) {
          for (std::int64_t x = 0; x < width; ++x) {
            const std::uint8_t* pair = &chroma[static_cast<std::size_t>(y / 2 * chroma_stride + x / 2 * 2)];
            const Exact exact(luma[static_cast<std::size_t>(y * stride + x)], pair[0], pair[1]);
            CHECK(is_near(&rgb[static_cast<std::size_t>((y * width + x) * 3)], exact));
          }
        }
      }
    }
  }
}

TEST("the second plane of nv12 lies behind the first where it is not given") {
  const Bytes frame = random_bytes(8 * 4 + 8 * 2, 3);
  const Bytes apart = rgb_of({frame.data(), 6, 4, PixelFormat::nv12, 8, frame.data() + 32, 8});
  CHECK(rgb_of({frame.data(), 6, 4, PixelFormat::nv12, 8}) == apart);
}

TEST("i420 of odd sizes and any strides has a U and a V for every two by two pixels") {
  for (const std::int64_t width : {1, 2, 5, 8}) {
    for (const std::int64_t height : {1, 2, 3, 6}) {
      for (const std::int64_t padding : {0, 7}) {
        const std::int64_t stride = width + padding;
        const std::int64_t chroma_stride = (width + 1) / 2 + padding;
        const std::int64_t chroma_rows = (height + 1) / 2;
        const Bytes luma = random_bytes(static_cast<std::size_t>(stride * height), 1);
        const Bytes u = random_bytes(static_cast<std::size_t>(chroma_stride * chroma_rows), 2);
        const Bytes v = random_bytes(u.size(), 3);
        const CameraImage apart{luma.data(), width,         height,   PixelFormat::i420, stride,
                                u.data(),    chroma_stride, v.data(), YuvMatrix::bt709};
        const Bytes rgb = rgb_of(apart);
        for (std::int64_t y = 0; y < height; ++y) {
          for (std::int64_t x = 0; x < width; ++x) {
            const auto pair = static_cast<std::size_t>(y / 2 * chroma_stride + x / 2);
            const Exact exact(luma[static_cast<std::size_t>(y * stride + x)], u[pair], v[pair],
                              YuvMatrix::bt709);
            CHECK(is_near(&rgb[static_cast<std::size_t>((y * width + x) * 3)], exact));
          }
        }
        // One plane behind the other, as a buffer has them.
        Bytes together = luma;
        together.insert(together.end(), u.begin(), u.end());
        together.insert(together.end(), v.begin(), v.end());
        CameraImage whole = apart;
        whole.data = together.data();
        whole.chroma = whole.chroma_v = nullptr;
        CHECK(rgb_of(whole) == rgb);
        CHECK(bytes_of(whole).data == together.size() - static_cast<std::size_t>(padding));
      }
    }
  }
}

TEST("an image takes its bytes, from the first pixel to the last one behind it") {
  const Bytes in(64);
  CHECK(bytes_of({in.data(), 3, 2, PixelFormat::rgb}).data == 18);
  CHECK(bytes_of({in.data(), 3, 2, PixelFormat::rgb, 12}).data == 21);
  CHECK(bytes_of({in.data(), 3, 3, PixelFormat::yuyv}).data == 24);
  CHECK(bytes_of({in.data(), 4, 2, PixelFormat::nv12}).data == 12);
  CHECK(bytes_of({in.data(), 3, 3, PixelFormat::nv12, 4}).data == 20);
  CHECK(bytes_of({in.data(), 3, 3, PixelFormat::i420, 4}).data == 20);
  CHECK(bytes_of({in.data(), 4, 2, PixelFormat::nv12, 4, in.data()}).data == 8);
  CHECK(bytes_of({in.data(), 4, 2, PixelFormat::nv12, 4, in.data()}).chroma == 4);
  CHECK(bytes_of({in.data(), 4, 4, PixelFormat::i420, 4, in.data()}).chroma == 8);
  CHECK(bytes_of({in.data(), 4, 4, PixelFormat::i420, 4, in.data(), 3, in.data()}).chroma_v == 5);
}

TEST("channels come in the order of the format, rows at any distance") {
  const Bytes in = random_bytes(4 * 40, 4);
  struct Case {
    PixelFormat format;
    int bytes;
    int red, green, blue;
  };
  for (const Case& one : {Case{PixelFormat::rgb, 3, 0, 1, 2}, Case{PixelFormat::bgr, 3, 2, 1, 0},
                          Case{PixelFormat::rgba, 4, 0, 1, 2}, Case{PixelFormat::bgra, 4, 2, 1, 0},
                          Case{PixelFormat::gray, 1, 0, 0, 0}}) {
    for (const std::ptrdiff_t stride : {0, 33}) {
      const Bytes rgb = rgb_of({in.data(), 7, 4, one.format, stride});
      const std::ptrdiff_t step = stride == 0 ? 7 * one.bytes : stride;
      for (int y = 0; y < 4; ++y) {
        for (int x = 0; x < 7; ++x) {
          const std::uint8_t* pixel = in.data() + y * step + x * one.bytes;
          const std::uint8_t* found = rgb.data() + (y * 7 + x) * 3;
          CHECK(found[0] == pixel[one.red] && found[1] == pixel[one.green] && found[2] == pixel[one.blue]);
        }
      }
    }
  }
}

TEST("pictures that are none are refused") {
  const Bytes in(64);
  CHECK_THROWS(ImageError, rgb_of({nullptr, 2, 2, PixelFormat::rgb}));
  CHECK_THROWS(ImageError, rgb_of({in.data(), 0, 2, PixelFormat::rgb}));
  CHECK_THROWS(ImageError, rgb_of({in.data(), 2, -1, PixelFormat::rgb}));
  CHECK_THROWS(ImageError, rgb_of({in.data(), std::int64_t{1} << 40, 1, PixelFormat::rgb}));
  CHECK_THROWS(ImageError, rgb_of({in.data(), 1'000'000, 1'000'000, PixelFormat::gray}));
  CHECK_THROWS(ImageError, rgb_of({in.data(), 4, 2, PixelFormat::rgb, 11}));
  CHECK_THROWS(ImageError, rgb_of({in.data(), 4, 2, PixelFormat::rgb, -12}));
  CHECK_THROWS(ImageError, rgb_of({in.data(), 4, 2, PixelFormat::nv12, 4, in.data(), 3}));
  CHECK_THROWS(ImageError, rgb_of({in.data(), 5, 2, PixelFormat::yuyv, 11}));
  CHECK_THROWS(ImageError, rgb_of({in.data(), 4, 2, PixelFormat::i420, 4, in.data(), 1}));
  CHECK_THROWS(ImageError, rgb_of({in.data(), 4, 2, PixelFormat::rgb, std::ptrdiff_t{1} << 60}));
}

}  // namespace
}  // namespace internvl

int main() { return internvl::test::run_all(); }
