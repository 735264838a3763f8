#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/bindings.h"
#include "runtime/weight_file.h"

namespace internvl::bindings {

namespace py = pybind11;

void register_weight_file(py::module_& module) {
  using Entry = std::tuple<std::string, std::string, std::vector<std::int64_t>, std::uint64_t, std::uint64_t>;
  py::class_<WeightFile, std::shared_ptr<WeightFile>>(module, "WeightFile")
      .def(py::init([](const std::string& path, const std::vector<Entry>& tensors) {
             std::vector<TensorEntry> entries;
             entries.reserve(tensors.size());
             for (const auto& [name, type, shape, begin, end] : tensors) {
               entries.push_back({name, data_type_from(type), shape, begin, end});
             }
             return std::make_shared<WeightFile>(path, std::move(entries));
           }),
           py::arg("path"), py::arg("tensors"))
      .def("__contains__",
           [](const WeightFile& file, const std::string& name) { return file.contains(name); });
}

}  // namespace internvl::bindings
