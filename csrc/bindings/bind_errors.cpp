#include <exception>

#include "bindings/bindings.h"
#include "runtime/error.h"

namespace internvl::bindings {
namespace {

namespace py = pybind11;

void raise(const char* python_class, const std::exception& error) {
  const py::object type = py::module_::import("internvl_rt.errors").attr(python_class);
  PyErr_SetString(type.ptr(), error.what());
}

}  // namespace

void register_errors(py::module_&) {
  py::register_exception_translator(
      [](std::exception_ptr thrown) {  // NOLINT(performance-unnecessary-value-param)
        try {
          if (thrown) std::rethrow_exception(thrown);
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
        } catch (const Error& error) {
          raise("InternVLError", error);
        }
      });
}

}  // namespace internvl::bindings
