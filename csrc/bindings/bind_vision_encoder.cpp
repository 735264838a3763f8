#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "bindings/watched_progress.h"
#include "bundle/manifest.h"
#include "image/pixel_values.h"
#include "model/compressible.h"
#include "model/vision_encoder.h"
#include "ops/cpu/cpu_device.h"
#include "runtime/error.h"

namespace internvl::bindings {

namespace py = pybind11;

namespace {

using Floats = py::array_t<float, py::array::c_style>;

// Features, milliseconds of the tower and of the rest, and what the router says, of a model that has one.
using Encoded = std::tuple<Floats, double, double, std::optional<Floats>, std::optional<Floats>>;

Encoded encode(VisionEncoder& encoder, const Floats& pixel_values,
               const WatchedProgress::Function& progress) {
  const VisionFacts& facts = encoder.facts();
  const auto size = static_cast<py::ssize_t>(facts.image_size);
  const bool fits = pixel_values.ndim() == 4 && pixel_values.shape(0) > 0 && pixel_values.shape(1) == 3 &&
                    pixel_values.shape(2) == size && pixel_values.shape(3) == size;
  if (!fits) {
    throw ImageError("the tiles do not have the shape [tiles, 3, " + std::to_string(size) + ", " +
                     std::to_string(size) + "], with at least one tile.");
  }
  const auto tiles = static_cast<std::size_t>(pixel_values.shape(0));
  Floats features({tiles, facts.image_tokens(), facts.output_size});
  std::optional<Floats> compressed;
  std::optional<Floats> scores;
  TileOutput output{features.mutable_data()};
  if (const FlashFacts* flash = encoder.flash()) {
    compressed.emplace(std::vector<std::size_t>{tiles, flash->tokens(facts), facts.output_size});
    scores.emplace(std::vector<std::size_t>{tiles});
    output.compressed = compressed->mutable_data();
    output.scores = scores->mutable_data();
  }
  const std::span<const float> in(pixel_values.data(), static_cast<std::size_t>(pixel_values.size()));
  VisionTimes times;
  WatchedProgress watched(progress);
  {
    const GilRelease release;
    times = encoder.encode(in, tiles, output, std::ref(watched));
  }
  return {std::move(features), times.vit_ms, times.projector_ms, std::move(compressed), std::move(scores)};
}

std::vector<bool> compressible_of(const Floats& scores, double relative_threshold,
                                  double absolute_threshold) {
  if (scores.ndim() != 1) throw py::value_error("scores are float32 [tiles].");
  const FlashFacts facts{.downsample = 1,
                         .heads = 1,
                         .relative_threshold = relative_threshold,
                         .absolute_threshold = absolute_threshold};
  return compressible({scores.data(), static_cast<std::size_t>(scores.size())}, facts);
}

}  // namespace

void register_vision_encoder(py::module_& module) {
  module.attr("DEFAULT_ACTIVATION_BYTES") = default_activation_bytes;
  module.def(
      "vision_batch",
      [](const Manifest& manifest, bool floats, bool integers, std::size_t bfloat16_columns,
         std::size_t activation_bytes) {
        const CpuDevice device(std::make_shared<ThreadTeam>(1));
        const VisionBatch batch = vision_batch(manifest.vision, manifest.flash, activation_bytes,
                                               {floats, integers, bfloat16_columns}, device);
        return std::make_pair(batch.tiles, batch.bytes);
      },
      py::arg("manifest"), py::kw_only(), py::arg("floats"), py::arg("integers"), py::arg("bfloat16_columns"),
      py::arg("activation_bytes") = default_activation_bytes);
  module.def("compressible", &compressible_of, py::arg("scores"), py::kw_only(),
             py::arg("relative_threshold"), py::arg("absolute_threshold"));
  py::class_<VisionEncoder, std::shared_ptr<VisionEncoder>>(module, "VisionEncoder")
      .def(py::init([](const Manifest& manifest, std::shared_ptr<WeightFile> weights,
                       std::shared_ptr<ThreadTeam> team, std::size_t activation_bytes) {
             return std::make_shared<VisionEncoder>(
                 manifest.vision, manifest.flash,
                 make_normalisation(manifest.tiling.mean, manifest.tiling.deviation), std::move(weights),
                 std::make_shared<CpuDevice>(std::move(team)), activation_bytes);
           }),
           py::arg("manifest"), py::arg("weights"), py::arg("team"), py::kw_only(),
           py::arg("activation_bytes") = default_activation_bytes)
      .def_property_readonly("batch_tiles",
                             [](const VisionEncoder& encoder) { return encoder.batch().tiles; })
      .def_property_readonly("batch_bytes",
                             [](const VisionEncoder& encoder) { return encoder.batch().bytes; })
      .def("encode", &encode, py::arg("pixel_values"), py::arg("progress") = py::none());
}

}  // namespace internvl::bindings
