#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "bindings/text.h"
#include "generation/session.h"

namespace internvl::bindings {
namespace {

namespace py = pybind11;

using Ids = py::array_t<std::int64_t, py::array::c_style>;

}  // namespace

void register_session(py::module_& module) {
  py::class_<SessionPrompt>(module, "SessionPrompt")
      .def_property_readonly("ids",
                             [](const SessionPrompt& prompt) {
                               return Ids(static_cast<py::ssize_t>(prompt.ids.size()), prompt.ids.data());
                             })
      .def_readonly("pictures", &SessionPrompt::pictures)
      .def_readonly("tiles", &SessionPrompt::tiles)
      .def_readonly("kept", &SessionPrompt::kept)
      .def_readonly("dropped_turns", &SessionPrompt::dropped_turns);
  py::class_<Session>(module, "Session")
      .def(py::init([](std::shared_ptr<PromptPlanner> planner, std::size_t context_tokens,
                       const py::object& system) {
             return Session(std::move(planner), context_tokens,
                            system.is_none() ? std::nullopt : std::optional(utf8_of(system)));
           }),
           py::arg("planner").none(false), py::kw_only(), py::arg("context_tokens"), py::arg("system"))
      .def(
          "prompt",
          [](const Session& session, Turn question, std::vector<Picture> pictures,
             std::vector<std::int64_t> tiles, std::size_t max_new_tokens) {
            const GilRelease release;
            return session.prompt({std::move(question), std::move(pictures), std::move(tiles), {}},
                                  max_new_tokens);
          },
          py::arg("question"), py::arg("pictures"), py::arg("tiles"), py::kw_only(),
          py::arg("max_new_tokens"))
      .def(
          "add",
          [](Session& session, const SessionPrompt& prompt, const std::vector<std::int64_t>& answer) {
            session.add(prompt, answer);
          },
          py::arg("prompt"), py::arg("answer"))
      .def("copy", [](const Session& session) { return Session(session); })
      .def_property_readonly("turns", [](const Session& session) { return session.turns().size(); });
}

}  // namespace internvl::bindings
