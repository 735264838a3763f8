#include <memory>
#include <utility>

#include "bindings/bindings.h"
#include "bundle/manifest.h"
#include "generation/cache_room.h"
#include "generation/native_engine.h"

namespace internvl::bindings {

namespace py = pybind11;

void register_engine(py::module_& module) {
  py::class_<CacheRoom>(module, "CacheRoom")
      .def(py::init([](std::size_t tokens, std::size_t block_tokens, bool forks_share) {
             return CacheRoom{tokens, block_tokens, forks_share};
           }),
           py::arg("tokens"), py::kw_only(), py::arg("block_tokens") = 1, py::arg("forks_share") = false)
      .def_readonly("tokens", &CacheRoom::tokens)
      .def("needed", &CacheRoom::needed, py::arg("prompt"), py::arg("added"), py::arg("forks"));
  py::class_<NativeEngine, std::shared_ptr<NativeEngine>>(module, "NativeEngine")
      .def(py::init([](std::shared_ptr<Decoder> decoder, std::shared_ptr<VisionEncoder> vision,
                       const Manifest& manifest) {
             return std::make_shared<NativeEngine>(std::move(decoder), std::move(vision),
                                                   manifest.prompt.image_context_id);
           }),
           py::arg("decoder").none(false), py::arg("vision").none(false), py::arg("manifest"));
}

}  // namespace internvl::bindings
