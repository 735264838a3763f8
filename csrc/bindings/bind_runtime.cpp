#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <vector>

#include "bindings/bindings.h"
#include "runtime/instruction_set.h"
#include "runtime/thread_team.h"
#include "runtime/usable_resources.h"

namespace internvl::bindings {

namespace py = pybind11;

void register_runtime(py::module_& module) {
  module.def("instruction_set", [] { return std::string(name_of(instruction_set())); });
  module.def("available_instruction_sets", [] {
    std::vector<std::string> names;
    for (const InstructionSet set : available_instruction_sets()) names.emplace_back(name_of(set));
    return names;
  });
  module.def("multiplies_bfloat16", [] { return multiplies_bfloat16(instruction_set()); });
  module.def("usable_cores", &usable_cores, py::arg("root") = "/");
  module.def("usable_memory", &usable_memory, py::arg("root") = "/");
  module.def("total_memory", &total_memory, py::arg("root") = "/");
  py::class_<ThreadTeam, std::shared_ptr<ThreadTeam>>(module, "ThreadTeam")
      .def(py::init<int>(), py::arg("threads") = 0)
      .def_property_readonly("size", &ThreadTeam::size);
}

}  // namespace internvl::bindings
