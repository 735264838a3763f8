// The pixel layouts that cameras and libraries have, to RGB.
//
// YUV is BT.601 in limited range, which is what webcams and V4L2's default say: Y from 16 to 235, U and V
// from 16 to 240. In integers of 16 fractional bits, rounded once and clipped to 0 to 255:
//
//   R = 1.164383 (Y - 16)                        + 1.596027 (V - 128)
//   G = 1.164383 (Y - 16) - 0.391762 (U - 128)   - 0.812968 (V - 128)
//   B = 1.164383 (Y - 16) + 2.017232 (U - 128)
//
// A pair of U and V holds for all pixels that share it (two in yuyv, two by two in nv12), without
// interpolation.
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
};

struct CameraImage {
  const std::uint8_t* data;
  std::int64_t width;
  std::int64_t height;
  PixelFormat format;
  std::ptrdiff_t stride = 0;             // bytes from row to row; 0: they follow one another
  const std::uint8_t* chroma = nullptr;  // of nv12; null: behind the rows of Y
  std::ptrdiff_t chroma_stride = 0;      // 0: as that of Y
};

// RGB, 8 bits, [height, width, 3]. Throws ImageError if there are no data, a size is out of range, or rows
// are longer than what lies between them.
std::vector<std::uint8_t> rgb_of(const CameraImage& image);

}  // namespace internvl
