// Pictures as cameras and libraries have them.
#pragma once

#include <internvl/c.h>

#include <cstddef>
#include <cstdint>

namespace internvl {
inline namespace api0 {

/// How YUV is made of RGB.
enum class YuvMatrix {
  bt601 = INTERNVL_BT601,  ///< as webcams have it
  bt709 = INTERNVL_BT709,  ///< as HD video has it
};

/// From which value to which YUV goes.
enum class YuvRange {
  limited = INTERNVL_LIMITED_RANGE,  ///< Y from 16 to 235, U and V from 16 to 240
  full = INTERNVL_FULL_RANGE,        ///< all of them from 0 to 255
};

/// A view of a picture in memory: 8 bits a channel, rows from the top, `stride` bytes apart (0: they follow
/// one another). The pixels have to stay until the call that it is given to returns, or has returned a
/// Stream.
///
/// YUV is BT.601 in limited range, as webcams have it, unless with() says otherwise. A pair of U and V holds
/// for all pixels that share it.
class Image {
 public:
  /// [height, width, 3].
  static Image rgb(const std::uint8_t* data, std::int64_t width, std::int64_t height,
                   std::int64_t stride = 0) {
    return Image(INTERNVL_RGB, data, width, height, stride);
  }
  /// [height, width, 3], as OpenCV has it.
  static Image bgr(const std::uint8_t* data, std::int64_t width, std::int64_t height,
                   std::int64_t stride = 0) {
    return Image(INTERNVL_BGR, data, width, height, stride);
  }
  /// [height, width, 4]; the fourth byte is not looked at.
  static Image rgba(const std::uint8_t* data, std::int64_t width, std::int64_t height,
                    std::int64_t stride = 0) {
    return Image(INTERNVL_RGBA, data, width, height, stride);
  }
  /// [height, width, 4]; the fourth byte is not looked at.
  static Image bgra(const std::uint8_t* data, std::int64_t width, std::int64_t height,
                    std::int64_t stride = 0) {
    return Image(INTERNVL_BGRA, data, width, height, stride);
  }
  /// [height, width].
  static Image gray(const std::uint8_t* data, std::int64_t width, std::int64_t height,
                    std::int64_t stride = 0) {
    return Image(INTERNVL_GRAY, data, width, height, stride);
  }
  /// A plane of Y [height, width], and one of U and V in turn for every two by two pixels. `stride` is that
  /// of both planes; the second begins behind the rows of the first.
  static Image nv12(const std::uint8_t* data, std::int64_t width, std::int64_t height,
                    std::int64_t stride = 0) {
    return Image(INTERNVL_NV12, data, width, height, stride);
  }
  /// The same with a second plane that lies elsewhere.
  static Image nv12(const std::uint8_t* data, std::int64_t stride, const std::uint8_t* chroma,
                    std::int64_t chroma_stride, std::int64_t width, std::int64_t height) {
    Image image(INTERNVL_NV12, data, width, height, stride);
    image.view_.chroma = chroma;
    image.view_.chroma_stride = chroma_stride;
    return image;
  }
  /// Y U Y V for every two pixels, as most webcams have it.
  static Image yuyv(const std::uint8_t* data, std::int64_t width, std::int64_t height,
                    std::int64_t stride = 0) {
    return Image(INTERNVL_YUYV, data, width, height, stride);
  }

  /// A plane of Y [height, width], one of U and one of V, a value of these for every two by two pixels. The
  /// planes follow one another; rows of the latter are half of `stride` apart, rounded up.
  static Image i420(const std::uint8_t* data, std::int64_t width, std::int64_t height,
                    std::int64_t stride = 0) {
    return Image(INTERNVL_I420, data, width, height, stride);
  }
  /// The same with planes that lie elsewhere.
  static Image i420(const std::uint8_t* data, std::int64_t stride, const std::uint8_t* u,
                    const std::uint8_t* v, std::int64_t chroma_stride, std::int64_t width,
                    std::int64_t height) {
    Image image(INTERNVL_I420, data, width, height, stride);
    image.view_.chroma = u;
    image.view_.chroma_v = v;
    image.view_.chroma_stride = chroma_stride;
    return image;
  }

  /// The same picture with YUV of that matrix and range.
  Image with(YuvMatrix matrix, YuvRange range = YuvRange::limited) const {
    Image image = *this;
    image.view_.yuv_matrix = static_cast<std::int32_t>(matrix);
    image.view_.yuv_range = static_cast<std::int32_t>(range);
    return image;
  }

  /// As the C API takes it.
  const internvl_image& view() const { return view_; }

 private:
  Image(internvl_pixel_format format, const std::uint8_t* data, std::int64_t width, std::int64_t height,
        std::int64_t stride) {
    view_.size = sizeof view_;
    view_.data = data;
    view_.width = width;
    view_.height = height;
    view_.stride = stride;
    view_.format = format;
  }

  internvl_image view_ = {};
};

/// How closely pictures are looked at, where no number of tiles is given. Those of one question share the
/// tiles of `automatic` and `high`; they get fewer where the prompt would not fit the context.
enum class Detail {
  automatic = INTERNVL_DETAIL_AUTO,  ///< the model's own number of tiles: 12 in the published checkpoints
  low = INTERNVL_DETAIL_LOW,         ///< one tile each
  high = INTERNVL_DETAIL_HIGH,       ///< 40 tiles
};

}  // namespace api0
}  // namespace internvl
