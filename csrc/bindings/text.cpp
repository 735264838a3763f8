#include "bindings/text.h"

#include "runtime/error.h"

namespace internvl::bindings {

namespace py = pybind11;

std::string utf8_of(const py::handle& text) {
  const auto bytes =
      py::reinterpret_steal<py::bytes>(PyUnicode_AsEncodedString(text.ptr(), "utf-8", "surrogatepass"));
  if (!bytes) throw py::error_already_set();
  return bytes;
}

std::optional<std::string> optional_utf8_of(const py::handle& text) {
  if (text.is_none()) return std::nullopt;
  return utf8_of(text);
}

py::str str_of(std::string_view utf8) {
  auto text = py::reinterpret_steal<py::str>(
      PyUnicode_DecodeUTF8(utf8.data(), static_cast<py::ssize_t>(utf8.size()), "surrogatepass"));
  if (!text) throw py::error_already_set();
  return text;
}

KeepTokens keep_of(std::string_view name) {
  if (name == "none") return KeepTokens::none;
  if (name == "grounding") return KeepTokens::grounding;
  if (name == "task") return KeepTokens::task;
  if (name == "all") return KeepTokens::all;
  throw PromptError("keep is '" + std::string(name) + "'; none, grounding, task or all was expected.");
}

}  // namespace internvl::bindings
