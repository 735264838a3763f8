// The pixel layouts that cameras and libraries have, to RGB.
//
// YUV is BT.601 or BT.709, in limited range (Y from 16 to 235, U and V from 16 to 240) or in full range (all
// of 0 to 255). BT.601 in limited range is what webcams and V4L2's default say. With K the weights of red and
// blue in Y, s = 255 / 219 and t = 255 / 224 in limited range, both 1 in full range:
//
//   R = s (Y - offset)                                       + 2 t (1 - Kr) (V - 128)
//   G = s (Y - offset) - 2 t (1 - Kb) Kb / Kg (U - 128)      - 2 t (1 - Kr) Kr / Kg (V - 128)
//   B = s (Y - offset) + 2 t (1 - Kb) (U - 128)
//
// in integers of 16 fractional bits, rounded once and clipped to 0 to 255. Y below the offset counts as the
// offset, as in OpenCV. A pair of U and V holds for all
// pixels that share it (two in yuyv, two by two in nv12 and i420), without interpolation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace internvl {

enum class PixelFormat : std::uint8_t {
  rgb,
  bgr,
  rgba,  // the fourth byte is not looked at
  bgra,
  gray,
  nv12,  // a plane of Y, and one of U and V in turn for every two by two pixels
  yuyv,  // Y U Y V for every two pixels
  i420,  // a plane of Y, one of U and one of V, a value of these for every two by two pixels
};
inline constexpr PixelFormat last_pixel_format = PixelFormat::i420;

enum class YuvMatrix : std::uint8_t { bt601, bt709 };
enum class YuvRange : std::uint8_t { limited, full };

struct CameraImage {
  const std::uint8_t* data;
  std::int64_t width;
  std::int64_t height;
  PixelFormat format;
  std::ptrdiff_t stride = 0;               // bytes from row to row; 0: they follow one another
  const std::uint8_t* chroma = nullptr;    // of nv12, or U of i420; null: behind the rows of Y
  std::ptrdiff_t chroma_stride = 0;        // 0: as that of Y, or half of it, rounded up, of i420
  const std::uint8_t* chroma_v = nullptr;  // V of i420; null: behind the rows of U
  YuvMatrix matrix = YuvMatrix::bt601;
  YuvRange range = YuvRange::limited;
};

// Bytes of each address that is given, from there to the end of the last plane that lies behind it; 0 of
// those that are not.
struct FrameBytes {
  std::size_t data = 0;
  std::size_t chroma = 0;
  std::size_t chroma_v = 0;
};
// Throws as rgb_of().
FrameBytes bytes_of(const CameraImage& image);

// RGB, 8 bits, [height, width, 3]. Throws ImageError if there are no data, a size is out of range, or rows
// are longer than what lies between them.
std::vector<std::uint8_t> rgb_of(const CameraImage& image);
// The same into memory of the caller's.
void write_rgb(const CameraImage& image, std::uint8_t* out);

}  // namespace internvl
