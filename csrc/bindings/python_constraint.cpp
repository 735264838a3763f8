#include "bindings/python_constraint.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <utility>

#include "bindings/python_failure.h"

namespace internvl::bindings {

namespace py = pybind11;

PythonConstraint::PythonConstraint(py::object constraint)
    : constraint_(owned_anywhere(std::move(constraint))) {}

std::span<const std::uint8_t> PythonConstraint::allowed() {
  with_python([&] {
    const auto bits = constraint_->attr("allowed")().cast<py::array_t<std::uint8_t, py::array::c_style>>();
    allowed_.assign(bits.data(), bits.data() + bits.size());
  });
  return allowed_;
}

std::optional<std::int64_t> PythonConstraint::forced() {
  return with_python([&] { return constraint_->attr("forced")().cast<std::optional<std::int64_t>>(); });
}

void PythonConstraint::take(std::int64_t token) {
  with_python([&] { constraint_->attr("take")(token); });
}

bool PythonConstraint::complete() {
  return with_python([&] { return constraint_->attr("complete")().cast<bool>(); });
}

}  // namespace internvl::bindings
