#include "image/camera_formats.h"

#include <algorithm>
#include <string>

#include "image/grid.h"
#include "runtime/error.h"

namespace internvl {
namespace {

// Far above any camera's, and small enough for arithmetic that does not look for overflow.
constexpr std::int64_t most_pixels = 200'000'000;
constexpr std::ptrdiff_t most_stride = std::ptrdiff_t{1} << 32;

std::int64_t half(std::int64_t pixels) { return (pixels + 1) / 2; }

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
    case PixelFormat::i420:
      return width;
    case PixelFormat::yuyv:
      return half(width) * 4;
  }
  throw ImageError("the pixel format is " + std::to_string(static_cast<int>(format)) +
                   "; expected rgb, bgr, rgba, bgra, gray, nv12, yuyv or i420.");
}

void check_side(const char* name, std::int64_t value) {
  if (value >= 1 && value <= max_image_side) return;
  throw ImageError("The picture's " + std::string(name) + " is " + std::to_string(value) +
                   "; expected 1 to " + std::to_string(max_image_side) + ".");
}

void check_stride(const char* name, std::ptrdiff_t stride, std::int64_t row) {
  if (stride >= row && stride <= most_stride) return;
  throw ImageError("The picture's " + std::string(name) + " is " + std::to_string(stride) +
                   " bytes, and a row has " + std::to_string(row) + ".");
}

// Where the planes of an image lie.
struct Planes {
  std::ptrdiff_t stride = 0;
  std::ptrdiff_t chroma_stride = 0;
  const std::uint8_t* u = nullptr;  // of nv12: pairs of U and V
  const std::uint8_t* v = nullptr;
  FrameBytes bytes;
};

Planes planes_of(const CameraImage& image) {
  if (image.data == nullptr)
    throw ImageError("The picture has no data. Give the address of its first pixel.");
  check_side("width", image.width);
  check_side("height", image.height);
  if (image.width * image.height > most_pixels) {
    throw ImageError("The picture has " + std::to_string(image.width * image.height) + " pixels; expected " +
                     std::to_string(most_pixels) + " at most. Make it smaller.");
  }
  const std::int64_t row = bytes_of_row(image.format, image.width);
  Planes planes;
  planes.stride = image.stride == 0 ? row : image.stride;
  check_stride("stride", planes.stride, row);
  const auto bytes_of_plane = [](std::ptrdiff_t stride, std::int64_t rows, std::int64_t last_row) {
    return static_cast<std::size_t>(stride * (rows - 1) + last_row);
  };
  planes.bytes.data = bytes_of_plane(planes.stride, image.height, row);
  const bool pairs = image.format == PixelFormat::nv12;
  if (!pairs && image.format != PixelFormat::i420) return planes;
  const std::int64_t chroma_row = half(image.width) * (pairs ? 2 : 1);
  planes.chroma_stride = image.chroma_stride != 0 ? image.chroma_stride
                         : pairs                  ? std::max<std::ptrdiff_t>(planes.stride, chroma_row)
                                                  : half(planes.stride);
  check_stride("chroma stride", planes.chroma_stride, chroma_row);
  const std::ptrdiff_t chroma_plane = planes.chroma_stride * half(image.height);
  const std::size_t chroma_bytes = bytes_of_plane(planes.chroma_stride, half(image.height), chroma_row);
  // A plane that is not given stands behind the one before it.
  std::size_t* bytes = &planes.bytes.data;
  const std::uint8_t* first = image.data;
  const std::uint8_t* end = image.data + image.height * planes.stride;
  const auto place = [&](const std::uint8_t* given, std::size_t* of_given) {
    if (given != nullptr) {
      bytes = of_given;
      first = end = given;
    }
    const std::uint8_t* plane = end;
    *bytes = static_cast<std::size_t>(plane - first) + chroma_bytes;
    end += chroma_plane;
    return plane;
  };
  planes.u = place(image.chroma, &planes.bytes.chroma);
  if (!pairs) planes.v = place(image.chroma_v, &planes.bytes.chroma_v);
  return planes;
}

constexpr std::int32_t fixed(double value) {
  return static_cast<std::int32_t>(value * 65536.0 + (value < 0 ? -0.5 : 0.5));
}

// The factors of one matrix and range, with 16 fractional bits.
struct YuvFactors {
  constexpr YuvFactors(YuvMatrix matrix, YuvRange range) {
    const bool limited = range == YuvRange::limited;
    const double kr = matrix == YuvMatrix::bt601 ? 0.299 : 0.2126;
    const double kb = matrix == YuvMatrix::bt601 ? 0.114 : 0.0722;
    const double kg = 1.0 - kr - kb;
    const double scale = limited ? 255.0 / 224.0 : 1.0;
    offset = limited ? 16 : 0;
    luma = fixed(limited ? 255.0 / 219.0 : 1.0);
    red_v = fixed(scale * 2 * (1 - kr));
    green_u = fixed(-scale * 2 * (1 - kb) * kb / kg);
    green_v = fixed(-scale * 2 * (1 - kr) * kr / kg);
    blue_u = fixed(scale * 2 * (1 - kb));
  }

  std::int32_t offset = 0;
  std::int32_t luma = 0;
  std::int32_t red_v = 0;
  std::int32_t green_u = 0;
  std::int32_t green_v = 0;
  std::int32_t blue_u = 0;
};

std::uint8_t clipped(std::int32_t fixed) {
  return static_cast<std::uint8_t>(std::clamp((fixed + 32768) >> 16, 0, 255));
}

// What a pair of U and V adds.
struct Chroma {
  Chroma(const YuvFactors& factors, std::uint8_t u, std::uint8_t v)
      : red(factors.red_v * (v - 128)),
        green(factors.green_u * (u - 128) + factors.green_v * (v - 128)),
        blue(factors.blue_u * (u - 128)) {}

  std::int32_t red;
  std::int32_t green;
  std::int32_t blue;
};

void write_pixel(std::uint8_t* out, const YuvFactors& factors, std::uint8_t y, const Chroma& chroma) {
  const std::int32_t luma = factors.luma * std::max(0, y - factors.offset);
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

// A row whose U and V of pixels 2i and 2i + 1 are u[step * i] and v[step * i]; `luma_step` from Y to Y.
void convert_yuv(const YuvFactors& factors, const std::uint8_t* luma, std::ptrdiff_t luma_step,
                 const std::uint8_t* u, const std::uint8_t* v, std::ptrdiff_t step, std::int64_t width,
                 std::uint8_t* out) {
  for (std::int64_t pair = 0; pair < width / 2; ++pair, luma += 2 * luma_step, out += 6) {
    const Chroma chroma(factors, u[step * pair], v[step * pair]);
    write_pixel(out, factors, luma[0], chroma);
    write_pixel(out + 3, factors, luma[luma_step], chroma);
  }
  if (width % 2 == 0) return;
  write_pixel(out, factors, luma[0], Chroma(factors, u[step * (width / 2)], v[step * (width / 2)]));
}

}  // namespace

FrameBytes bytes_of(const CameraImage& image) { return planes_of(image).bytes; }

void write_rgb(const CameraImage& image, std::uint8_t* out) {
  const Planes planes = planes_of(image);
  const YuvFactors factors(image.matrix, image.range);
  for (std::int64_t y = 0; y < image.height; ++y, out += image.width * 3) {
    const std::uint8_t* in = image.data + y * planes.stride;
    const std::ptrdiff_t chroma = y / 2 * planes.chroma_stride;
    switch (image.format) {
      case PixelFormat::rgb:
        std::copy_n(in, image.width * 3, out);
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
        convert_yuv(factors, in, 1, planes.u + chroma, planes.u + chroma + 1, 2, image.width, out);
        break;
      case PixelFormat::yuyv:
        convert_yuv(factors, in, 2, in + 1, in + 3, 4, image.width, out);
        break;
      case PixelFormat::i420:
        convert_yuv(factors, in, 1, planes.u + chroma, planes.v + chroma, 1, image.width, out);
        break;
    }
  }
}

std::vector<std::uint8_t> rgb_of(const CameraImage& image) {
  static_cast<void>(planes_of(image));  // the size is right
  std::vector<std::uint8_t> rgb(static_cast<std::size_t>(image.width * image.height) * 3);
  write_rgb(image, rgb.data());
  return rgb;
}

}  // namespace internvl
