// One register function per bound class or group of functions; each maps arguments, releases the GIL and
// converts.
#pragma once

#include <pybind11/pybind11.h>

namespace internvl::bindings {

void register_bundle(pybind11::module_& module);
void register_cache_size(pybind11::module_& module);
void register_conversation(pybind11::module_& module);
void register_decoder(pybind11::module_& module);
void register_engine(pybind11::module_& module);
void register_errors(pybind11::module_& module);
void register_image(pybind11::module_& module);
void register_options(pybind11::module_& module);
void register_pixel_shuffle(pybind11::module_& module);
void register_prompt_planner(pybind11::module_& module);
void register_renderer(pybind11::module_& module);
void register_runtime(pybind11::module_& module);
void register_sampler(pybind11::module_& module);
void register_scheduler(pybind11::module_& module);
void register_session(pybind11::module_& module);
void register_tokenizer(pybind11::module_& module);
void register_vision_encoder(pybind11::module_& module);
void register_weight_file(pybind11::module_& module);

}  // namespace internvl::bindings
