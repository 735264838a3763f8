#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "bindings/pixels.h"
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
