#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <vector>

#include "bindings/bindings.h"
#include "kernels/attention/attention.h"
#include "runtime/features.h"
#include "runtime/thread_team.h"
#include "runtime/tile_unit.h"
#include "runtime/usable_resources.h"

namespace internvl::bindings {

namespace py = pybind11;

void register_runtime(py::module_& module) {
  module.def("instruction_set", [] { return std::string(instruction_set(features())); });
  module.def("available_instruction_sets", [] {
    const auto names = available_instruction_sets();
    return std::vector<std::string>(names.begin(), names.end());
  });
  module.def("multiplies_bfloat16", [] { return multiplies_bfloat16(features()); });
  module.def("tile_unit", [] {
    switch (tile_unit()) {
      case TileUnit::absent:
        return "absent";
      case TileUnit::refused:
        return "refused";
      case TileUnit::usable:
        break;
    }
    return "usable";
  });
  module.def("attends_in_bfloat16", [] { return attends_in_bfloat16(features()); });
  module.def("usable_cores", &usable_cores, py::arg("root") = "/");
  module.def("usable_memory", &usable_memory, py::arg("root") = "/");
  module.def("total_memory", &total_memory, py::arg("root") = "/");
  py::class_<ThreadTeam, std::shared_ptr<ThreadTeam>>(module, "ThreadTeam")
      .def(py::init<int>(), py::arg("threads") = 0)
      .def_property_readonly("size", &ThreadTeam::size);
}

}  // namespace internvl::bindings
