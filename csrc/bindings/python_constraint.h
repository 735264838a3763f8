// A form that is kept by an object of Python's.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "generation/constraint.h"

namespace internvl::bindings {

// Of an object that has allowed(), forced(), take() and complete(), as internvl_rt.structured.Constraint.
class PythonConstraint : public Constraint {
 public:
  explicit PythonConstraint(pybind11::object constraint);

  std::span<const std::uint8_t> allowed() override;
  std::optional<std::int64_t> forced() override;
  void take(std::int64_t token) override;
  bool complete() override;

 private:
  std::shared_ptr<pybind11::object> constraint_;
  std::vector<std::uint8_t> allowed_;
};

}  // namespace internvl::bindings
