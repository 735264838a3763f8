#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <exception>
#include <string_view>
#include <utility>

#include "bindings/bindings.h"
#include "bindings/python_failure.h"
#include "runtime/error.h"

namespace internvl::bindings {
namespace {

namespace py = pybind11;

// Bytes of a path that are not UTF-8 become what Python carries them as.
py::str str_of(std::string_view text) {
  return py::reinterpret_steal<py::str>(
      PyUnicode_DecodeUTF8(text.data(), static_cast<py::ssize_t>(text.size()), "surrogateescape"));
}

std::string_view name_of(ErrorCode code) {
  const auto* found = std::ranges::find(kErrorCodes, code, &std::pair<ErrorCode, std::string_view>::first);
  return found == kErrorCodes.end() ? "" : found->second;
}

// Python says what to do about it, by the code: errors.py.
void raise(const char* python_class, const Error& error) {
  const py::module_ errors = py::module_::import("internvl_rt.errors");
  const py::object message = errors.attr("with_advice")(str_of(error.what()), name_of(error.code()));
  PyErr_SetObject(errors.attr(python_class).ptr(), message.ptr());
}

// Python says what to do about it, by the number: file_errors.py.
void raise_os_error(const FileError& error) {
  errno = error.error_number();
  PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, str_of(error.path()).ptr());
}

}  // namespace

void register_errors(py::module_& module) {
  py::tuple codes(kErrorCodes.size());
  for (std::size_t i = 0; i < kErrorCodes.size(); ++i) codes[i] = kErrorCodes[i].second;
  module.attr("ERROR_CODES") = codes;
  py::register_exception_translator(
      [](std::exception_ptr thrown) {  // NOLINT(performance-unnecessary-value-param)
        try {
          if (thrown) std::rethrow_exception(thrown);
        } catch (const PythonFailure& failure) {
          failure.restore();
        } catch (const FileError& error) {
          raise_os_error(error);
        } catch (const BundleError& error) {
          raise("BundleError", error);
        } catch (const ImageError& error) {
          raise("ImageError", error);
        } catch (const PromptError& error) {
          raise("PromptError", error);
        } catch (const DeviceError& error) {
          raise("DeviceError", error);
        } catch (const CacheFullError& error) {
          raise("CacheFullError", error);
        } catch (const BusyError& error) {
          raise("BusyError", error);
        } catch (const ClosedError& error) {
          raise("ClosedError", error);
        } catch (const Error& error) {
          raise("InternVLError", error);
        }
      });
}

}  // namespace internvl::bindings
