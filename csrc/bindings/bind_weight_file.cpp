#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/paths.h"
#include "runtime/weight_file.h"

namespace internvl::bindings {

namespace py = pybind11;

void register_weight_file(py::module_& module) {
  py::class_<WeightFile, std::shared_ptr<WeightFile>>(module, "WeightFile")
      .def(py::init([](const py::object& path, std::vector<TensorEntry> places) {
             return std::make_shared<WeightFile>(path_of(path), std::move(places));
           }),
           py::arg("path"), py::arg("places"))
      .def("__contains__",
           [](const WeightFile& file, const std::string& name) { return file.contains(name); });
}

}  // namespace internvl::bindings
