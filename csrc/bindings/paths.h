#pragma once

#include <pybind11/pybind11.h>

#include <filesystem>
#include <string>

namespace internvl::bindings {

// A str, bytes or os.PathLike, by the system's own encoding. Raises what Python does for anything else.
inline std::filesystem::path path_of(const pybind11::handle& path) {
  PyObject* encoded = nullptr;
  if (PyUnicode_FSConverter(path.ptr(), static_cast<void*>(&encoded)) == 0)
    throw pybind11::error_already_set();
  return std::string(pybind11::reinterpret_steal<pybind11::bytes>(encoded));
}

}  // namespace internvl::bindings
