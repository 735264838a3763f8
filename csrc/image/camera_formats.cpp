#include "image/camera_formats.h"

#include <algorithm>
#include <string>

#include "image/grid.h"
#include "runtime/error.h"

namespace internvl {
namespace {

// Far above any camera's, and small enough for arithmetic that does not look for overflow.
constexpr std::int64_t most_pixels = 200'000'000;

std::int64_t bytes_of_row(PixelFormat format, std::int64_t width) {
  switch (format) {
    case PixelFormat::rgb:
    case PixelFormat::bgr:
      return width * 3;
    case PixelFormat::rgba:
    case PixelFormat::bgra:
      return width * 4;
    case PixelFormat::gray:
    case PixelFormat::nv12:
      return width;
    case PixelFormat::yuyv:
      return (width + 1) / 2 * 4;
  }
  throw ImageError("the pixel format is " + std::to_string(static_cast<int>(format)) +
                   "; expected rgb, bgr, rgba, bgra, gray, nv12 or yuyv.");
}

void check_side(const char* name, std::int64_t value) {
  if (value >= 1 && value <= max_image_side) return;
  throw ImageError("The picture's " + std::string(name) + " is " + std::to_string(value) +
                   "; expected 1 to " + std::to_string(max_image_side) + ".");
}

std::ptrdiff_t checked_stride(const char* name, std::ptrdiff_t stride, std::int64_t row) {
  if (stride == 0) return row;
  if (stride >= row) return stride;
  throw ImageError("The picture's " + std::string(name) + " is " + std::to_string(stride) +
                   " bytes, and a row has " + std::to_string(row) + ".");
}

std::uint8_t clipped(std::int32_t fixed) {
  return static_cast<std::uint8_t>(std::clamp((fixed + 32768) >> 16, 0, 255));
}

// What a pair of U and V adds, with 16 fractional bits.
struct Chroma {
  Chroma(std::uint8_t u, std::uint8_t v)
      : red(104597 * (v - 128)), green(-25675 * (u - 128) - 53279 * (v - 128)), blue(132201 * (u - 128)) {}

  std::int32_t red;
  std::int32_t green;
  std::int32_t blue;
};

void write_rgb(std::uint8_t* out, std::uint8_t y, const Chroma& chroma) {
  const std::int32_t luma = 76309 * (y - 16);
  out[0] = clipped(luma + chroma.red);
  out[1] = clipped(luma + chroma.green);
  out[2] = clipped(luma + chroma.blue);
}

// Pixels of so many bytes, of which these become red, green and blue.
void take_channels(const std::uint8_t* row, std::int64_t width, int bytes, int red, int green, int blue,
                   std::uint8_t* out) {
  for (std::int64_t x = 0; x < width; ++x, row += bytes, out += 3) {
    out[0] = row[red];
    out[1] = row[green];
    out[2] = row[blue];
  }
}

void convert_nv12(const std::uint8_t* luma, const std::uint8_t* chroma, std::int64_t width,
                  std::uint8_t* out) {
  for (std::int64_t x = 0; x < width; ++x, out += 3) {
    const std::int64_t pair = x / 2 * 2;
    write_rgb(out, luma[x], Chroma(chroma[pair], chroma[pair + 1]));
  }
}

void convert_yuyv(const std::uint8_t* row, std::int64_t width, std::uint8_t* out) {
  for (std::int64_t x = 0; x < width; ++x, out += 3) {
    const std::uint8_t* pair = row + x / 2 * 4;
    write_rgb(out, pair[x % 2 * 2], Chroma(pair[1], pair[3]));
  }
}

}  // namespace

std::vector<std::uint8_t> rgb_of(const CameraImage& image) {
  if (image.data == nullptr)
    throw ImageError("The picture has no data. Give the address of its first pixel.");
  check_side("width", image.width);
  check_side("height", image.height);
  if (image.width * image.height > most_pixels) {
    throw ImageError("The picture has " + std::to_string(image.width * image.height) + " pixels; expected " +
                     std::to_string(most_pixels) + " at most. Make it smaller.");
  }
  const std::int64_t row = bytes_of_row(image.format, image.width);
  const std::ptrdiff_t stride = checked_stride("stride", image.stride, row);
  const std::uint8_t* chroma = image.chroma;
  std::ptrdiff_t chroma_stride = 0;
  if (image.format == PixelFormat::nv12) {
    const std::int64_t chroma_row = (image.width + 1) / 2 * 2;
    const std::ptrdiff_t like_luma = std::max<std::ptrdiff_t>(stride, chroma_row);
    chroma_stride = checked_stride("chroma stride",
                                   image.chroma_stride == 0 ? like_luma : image.chroma_stride, chroma_row);
    if (chroma == nullptr) chroma = image.data + image.height * stride;
  }
  std::vector<std::uint8_t> rgb(static_cast<std::size_t>(image.width * image.height) * 3);
  for (std::int64_t y = 0; y < image.height; ++y) {
    const std::uint8_t* in = image.data + y * stride;
    std::uint8_t* out = rgb.data() + y * image.width * 3;
    switch (image.format) {
      case PixelFormat::rgb:
        std::copy_n(in, row, out);
        break;
      case PixelFormat::bgr:
        take_channels(in, image.width, 3, 2, 1, 0, out);
        break;
      case PixelFormat::rgba:
        take_channels(in, image.width, 4, 0, 1, 2, out);
        break;
      case PixelFormat::bgra:
        take_channels(in, image.width, 4, 2, 1, 0, out);
        break;
      case PixelFormat::gray:
        take_channels(in, image.width, 1, 0, 0, 0, out);
        break;
      case PixelFormat::nv12:
        convert_nv12(in, chroma + y / 2 * chroma_stride, image.width, out);
        break;
      case PixelFormat::yuyv:
        convert_yuyv(in, image.width, out);
        break;
    }
  }
  return rgb;
}

}  // namespace internvl
