#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/conversations.h"
#include "generation/prompt_planner.h"
#include "generation/tile_budget.h"

namespace internvl::bindings {
namespace {

namespace py = pybind11;

using Ids = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;
using Tiles = std::vector<std::int64_t>;

}  // namespace

void register_prompt_planner(py::module_& module) {
  module.attr("MOST_TILES") = kMostTiles;
  py::class_<TileBudget>(module, "TileBudget")
      .def(py::init([](std::optional<std::int64_t> max_tiles, std::string_view detail) {
             const TileBudget budget{max_tiles, detail_of(detail)};
             budget.check();
             return budget;
           }),
           py::arg("max_tiles"), py::arg("detail"))
      .def("per_picture", &TileBudget::per_picture, py::arg("own"), py::arg("pictures"));
  module.def(
      "most_tiles",
      [](const TileBudget& budget, const py::object& conversation, std::size_t pictures, bool as_one,
         int own) { return most_tiles(budget, conversation_of(conversation), pictures, as_one, own); },
      py::arg("budget"), py::arg("conversation"), py::kw_only(), py::arg("pictures"), py::arg("as_one"),
      py::arg("own"));

  py::class_<PlannedPicture>(module, "PlannedPicture")
      .def(py::init([](std::pair<std::int64_t, std::int64_t> size, int max_tiles, std::int64_t tiles) {
             return PlannedPicture{size.first, size.second, max_tiles, tiles};
           }),
           py::arg("size"), py::arg("max_tiles"), py::arg("tiles"))
      .def_readonly("max_tiles", &PlannedPicture::max_tiles)
      .def_readonly("tiles", &PlannedPicture::tiles);
  py::class_<PromptPlanner, std::shared_ptr<PromptPlanner>>(module, "PromptPlanner")
      .def(py::init([](std::shared_ptr<Tokenizer> tokenizer, std::shared_ptr<PromptRenderer> renderer,
                       const Manifest& manifest, std::size_t context_tokens) {
             return std::make_shared<PromptPlanner>(std::move(tokenizer), std::move(renderer), manifest,
                                                    context_tokens);
           }),
           py::arg("tokenizer").none(false), py::arg("renderer").none(false), py::arg("manifest"),
           py::arg("context_tokens"))
      .def(
          "fit",
          [](const PromptPlanner& planner, std::vector<PlannedPicture> pictures,
             const py::iterable& conversations, bool as_one, std::size_t max_new_tokens) {
            std::vector<Conversation> asked;
            for (const py::handle& one : conversations) asked.push_back(conversation_of(one));
            const py::gil_scoped_release release;
            planner.fit(pictures, asked, as_one, max_new_tokens);
            return pictures;
          },
          py::arg("pictures"), py::arg("conversations"), py::kw_only(), py::arg("as_one"),
          py::arg("max_new_tokens"))
      .def(
          "render",
          [](const PromptPlanner& planner, const py::object& conversation, const Tiles& tiles) {
            const Conversation asked = conversation_of(conversation);
            const py::gil_scoped_release release;
            return planner.render(asked, tiles);
          },
          py::arg("conversation"), py::arg("tiles"))
      .def(
          "check_length",
          [](const PromptPlanner& planner, const Ids& ids, const Tiles& tiles, bool frames) {
            planner.check_length({ids.data(), static_cast<std::size_t>(ids.size())}, tiles,
                                 frames ? PictureKind::frames : PictureKind::pictures);
          },
          py::arg("ids"), py::arg("tiles"), py::kw_only(), py::arg("frames") = false);
}

}  // namespace internvl::bindings
