#include "bindings/bindings.h"

PYBIND11_MODULE(_core, module) {
  using namespace internvl::bindings;
  module.doc() = "The C++ core of internvl_rt.";
  register_errors(module);
  register_runtime(module);
  register_image(module);
  register_options(module);
  register_pixel_shuffle(module);
  register_sampler(module);
  register_tokenizer(module);
  register_bundle(module);
  register_cache_size(module);
  register_conversation(module);
  register_renderer(module);
  register_weight_file(module);
  register_decoder(module);
  register_vision_encoder(module);
  register_engine(module);
  register_prompt_planner(module);
  register_scheduler(module);
  register_session(module);
}
