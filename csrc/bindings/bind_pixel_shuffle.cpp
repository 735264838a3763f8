#include <pybind11/numpy.h>

#include <cmath>
#include <cstddef>
#include <string>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "ops/cpu/pixel_shuffle.h"
#include "runtime/error.h"

namespace internvl::bindings {
namespace {

namespace py = pybind11;

using Features = py::array_t<float, py::array::c_style>;

PixelShuffleVersion version_of(const std::string& name) {
  if (name == "v1") return PixelShuffleVersion::v1;
  if (name == "v2") return PixelShuffleVersion::v2;
  throw ImageError("The pixel shuffle's version is \"" + name + "\"; expected v1 or v2.");
}

PixelShuffleShape shape_of(const Features& features, int block) {
  if (features.ndim() == 3 && features.shape(1) > 1 && block > 0) {
    const auto patches = static_cast<std::size_t>(features.shape(1) - 1);
    const auto side = static_cast<std::size_t>(std::lround(std::sqrt(static_cast<double>(patches))));
    if (side * side == patches) {
      return {static_cast<std::size_t>(features.shape(0)), side, static_cast<std::size_t>(features.shape(2)),
              static_cast<std::size_t>(block)};
    }
  }
  throw ImageError(
      "The pixel shuffle takes [tiles, 1 + patches, channels] with a square number of patches, and a block "
      "of 1 or "
      "more patches.");
}

}  // namespace

void register_pixel_shuffle(py::module_& module) {
  module.def(
      "pixel_shuffle",
      [](const Features& features, int block, const std::string& version, ThreadTeam& team) {
        const PixelShuffleShape shape = shape_of(features, block);
        const PixelShuffleVersion order = version_of(version);
        py::array_t<float> out({shape.tiles, shape.tokens(), shape.token_channels()});
        const std::span in(features.data(), static_cast<std::size_t>(features.size()));
        const std::span to(out.mutable_data(), static_cast<std::size_t>(out.size()));
        {
          const GilRelease release;
          pixel_shuffle(in, shape, order, to, team);
        }
        return out;
      },
      py::arg("features").noconvert(), py::kw_only(), py::arg("block"), py::arg("version"), py::arg("team"));
}

}  // namespace internvl::bindings
