#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/text.h"
#include "generation/generation_settings.h"
#include "generation/options.h"

namespace internvl::bindings {
namespace {

namespace py = pybind11;

std::vector<std::string> texts_of(const py::iterable& given) {
  std::vector<std::string> texts;
  for (const py::handle& text : given) texts.push_back(utf8_of(text));
  return texts;
}

}  // namespace

void register_options(py::module_& module) {
  py::class_<IntegerOption>(module, "IntegerOption")
      .def_readonly("least", &IntegerOption::least)
      .def_readonly("most", &IntegerOption::most)
      .def_readonly("default", &IntegerOption::standard);
  py::class_<NumberOption>(module, "NumberOption")
      .def("takes", &NumberOption::takes, py::arg("value"))
      .def_readonly("range", &NumberOption::range)
      .def_readonly("default", &NumberOption::standard);
  module.attr("THREADS") = kThreads;
  module.attr("MAX_WAITING") = kMaxWaiting;
  module.attr("MAX_WAIT_S") = kMaxWaitSeconds;
  module.attr("ANSWERS") = kAnswers;
  module.attr("PRIORITY") = kPriority;
  module.attr("MAX_NEW_TOKENS") = kMaxNewTokens;
  module.attr("TOP_K") = kTopK;
  module.attr("TEMPERATURE") = kTemperature;
  module.attr("TOP_P") = kTopP;
  module.attr("REPETITION_PENALTY") = kRepetitionPenalty;
  module.def("check_stop", [](const py::iterable& texts) { check_stop(texts_of(texts)); }, py::arg("texts"));
  module.def(
      "check_choices", [](const py::iterable& texts) { check_choices(texts_of(texts)); }, py::arg("texts"));
}

}  // namespace internvl::bindings
