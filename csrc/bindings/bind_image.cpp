#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "bindings/pixels.h"
#include "image/camera_formats.h"
#include "image/pixel_values.h"
#include "image/tile.h"
#include "runtime/error.h"

namespace internvl::bindings {
namespace {

namespace py = pybind11;

using GridPair = std::pair<int, int>;  // (columns, rows)
using Channels = std::array<double, rgb_channels>;

GridPair pair_of(const Grid& grid) { return {grid.columns, grid.rows}; }

template <class Value>
py::array_t<Value> new_array(std::initializer_list<int> shape) {
  return py::array_t<Value>(std::vector<py::ssize_t>(shape.begin(), shape.end()));
}

PixelFormat pixel_format_of(std::string_view name) {
  static constexpr std::string_view names[] = {"rgb", "bgr", "rgba", "bgra", "gray", "nv12", "yuyv", "i420"};
  const auto* const found = std::ranges::find(names, name);
  if (found == std::end(names)) throw ImageError("there is no pixel format '" + std::string(name) + "'.");
  return static_cast<PixelFormat>(found - names);
}

// From the first byte of an array [bytes] or [rows, bytes] to the end of its last.
std::size_t bytes_from_first(const Pixels& plane) {
  if (plane.ndim() == 1) return static_cast<std::size_t>(plane.shape(0));
  if (plane.shape(0) == 0) return 0;
  return static_cast<std::size_t>((plane.shape(0) - 1) * plane.strides(0) + plane.shape(1));
}

py::array_t<std::uint8_t> frame_rgb(const std::vector<Pixels>& planes, std::int64_t width,
                                    std::int64_t height, std::string_view format, std::ptrdiff_t stride,
                                    std::string_view matrix, bool full_range) {
  CameraImage image{.data = planes.at(0).data(),
                    .width = width,
                    .height = height,
                    .format = pixel_format_of(format),
                    .stride = planes[0].ndim() == 1 ? stride : planes[0].strides(0),
                    .matrix = matrix == "bt709" ? YuvMatrix::bt709 : YuvMatrix::bt601,
                    .range = full_range ? YuvRange::full : YuvRange::limited};
  if (planes.size() > 1) {
    image.chroma = planes[1].data();
    if (planes[1].ndim() == 2) image.chroma_stride = planes[1].strides(0);
  }
  if (planes.size() > 2) image.chroma_v = planes[2].data();
  const FrameBytes needed = bytes_of(image);
  const std::size_t bytes[] = {needed.data, needed.chroma, needed.chroma_v};
  for (std::size_t i = 0; i < planes.size(); ++i) {
    if (bytes_from_first(planes[i]) >= bytes[i]) continue;
    throw ImageError("Plane " + std::to_string(i) + " of the frame has " +
                     std::to_string(bytes_from_first(planes[i])) + " bytes; expected " +
                     std::to_string(bytes[i]) + " of " + std::to_string(width) + "x" +
                     std::to_string(height) + " pixels in " + std::string(format) + ".");
  }
  py::array_t<std::uint8_t> out(std::vector<py::ssize_t>{height, width, 3});
  std::uint8_t* rgb = out.mutable_data();
  const GilRelease release;
  write_rgb(image, rgb);
  return out;
}

}  // namespace

void register_image(py::module_& module) {
  py::class_<TilingOptions>(module, "TilingOptions")
      .def(py::init([](int tile_size, int min_tiles, int max_tiles, bool thumbnail, bool dynamic) {
             return TilingOptions{tile_size, min_tiles, max_tiles, thumbnail, dynamic};
           }),
           py::kw_only(), py::arg("tile_size"), py::arg("min_tiles"), py::arg("max_tiles"),
           py::arg("thumbnail"), py::arg("dynamic"))
      .def("with_at_most", &with_at_most, py::arg("max_tiles"));

  module.def("count_tiles", &count_tiles, py::arg("width"), py::arg("height"), py::arg("tiling"),
             py::arg("max_tiles"));

  module.def(
      "choose_grid",
      [](std::int64_t width, std::int64_t height, int min_tiles, int max_tiles, int tile_size) {
        return pair_of(choose_grid(width, height, min_tiles, max_tiles, tile_size));
      },
      py::arg("width"), py::arg("height"), py::kw_only(), py::arg("min_tiles"), py::arg("max_tiles"),
      py::arg("tile_size"));

  module.def("frame_rgb", &frame_rgb, py::arg("planes"), py::kw_only(), py::arg("width"), py::arg("height"),
             py::arg("pixel_format"), py::arg("stride"), py::arg("matrix"), py::arg("full_range"));

  module.def(
      "tile_image",
      [](const Pixels& rgb, const TilingOptions& options, ThreadTeam& team) {
        const ImageView image = view_of(rgb);
        const TilePlan plan = plan_tiles(image.width, image.height, options);
        auto out = new_array<std::uint8_t>({plan.tiles(), plan.tile_size, plan.tile_size, 3});
        std::uint8_t* data = out.mutable_data();
        {
          const GilRelease release;
          write_tiles(image, plan, data, team);
        }
        return std::make_pair(out, pair_of(plan.grid));
      },
      py::arg("rgb").noconvert(), py::arg("options"), py::arg("team"));

  module.def(
      "tile_pixel_values",
      [](const Pixels& rgb, const TilingOptions& options, const Channels& mean, const Channels& std,
         ThreadTeam& team) {
        const ImageView image = view_of(rgb);
        const TilePlan plan = plan_tiles(image.width, image.height, options);
        const Normalisation normalisation = make_normalisation(mean, std);
        auto out = new_array<float>({plan.tiles(), 3, plan.tile_size, plan.tile_size});
        float* data = out.mutable_data();
        {
          const GilRelease release;
          const auto tiles =
              std::make_unique_for_overwrite<std::uint8_t[]>(static_cast<std::size_t>(out.size()));
          write_tiles(image, plan, tiles.get(), team);
          write_pixel_values(tiles.get(), static_cast<std::size_t>(plan.tiles()),
                             static_cast<std::size_t>(plan.tile_size), normalisation, data, team);
        }
        return std::make_pair(out, pair_of(plan.grid));
      },
      py::arg("rgb").noconvert(), py::arg("options"), py::arg("mean"), py::arg("std"), py::arg("team"));
}

}  // namespace internvl::bindings
