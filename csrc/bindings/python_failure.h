// An exception of Python's on its way through the core.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <memory>
#include <utility>

#include "bindings/gil.h"

namespace internvl::bindings {

// The last reference to an object may go in a thread of the core, without the GIL.
inline std::shared_ptr<pybind11::object> owned_anywhere(pybind11::object object) {
  return {new pybind11::object(std::move(object)), [](pybind11::object* last) {
            const GilAcquire acquire;
            if (acquire) delete last;
          }};
}

// Unlike pybind11's own, it may be thrown again in several threads, once for each request that it ended. Its
// traceback comes with it.
class PythonFailure : public std::exception {
 public:
  // With the GIL.
  explicit PythonFailure(const pybind11::error_already_set& error) : value_(owned_anywhere(error.value())) {
    // Before Python 3.12, the value has it only once it was caught.
    if (error.trace()) PyException_SetTraceback(error.value().ptr(), error.trace().ptr());
  }

  const char* what() const noexcept override { return "an exception of Python's"; }
  // Raises it in Python, with the GIL.
  void restore() const {
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(value_->ptr())), value_->ptr());
  }

 private:
  std::shared_ptr<pybind11::object> value_;
};

// Calls a function that uses Python, with the GIL, for the core.
template <class Function>
auto with_python(Function&& function) {
  const CoreThread core;
  const GilAcquire acquire;
  try {
    return std::forward<Function>(function)();
  } catch (const pybind11::error_already_set& error) {
    throw PythonFailure(error);
  }
}

}  // namespace internvl::bindings
