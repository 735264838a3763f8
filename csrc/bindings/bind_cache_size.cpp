#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "bindings/bindings.h"
#include "generation/cache_size.h"
#include "generation/tile_cache.h"
#include "runtime/error.h"
#include "runtime/readable_size.h"

namespace internvl::bindings {
namespace {

namespace py = pybind11;

Precision precision_of(std::string_view name) {
  for (const Precision one :
       {Precision::fp32, Precision::fp16, Precision::bf16, Precision::int8, Precision::int4}) {
    if (name == name_of(one)) return one;
  }
  throw PromptError("there is no precision '" + std::string(name) + "'.");
}

}  // namespace

void register_cache_size(py::module_& module) {
  module.attr("CACHE_TOKENS") = kCacheTokens;
  module.attr("MAX_CONTEXT") = kMaxContext;
  module.def("readable_size", &readable_size, py::arg("count"));
  module.def(
      "kv_bytes_per_token",
      [](std::size_t layers, std::size_t kv_heads, std::size_t head_dim, std::string_view cache_type) {
        return kv_bytes_per_token(layers, kv_heads, head_dim, cache_type_from(cache_type));
      },
      py::arg("layers"), py::arg("kv_heads"), py::arg("head_dim"), py::arg("cache_type"));
  module.def(
      "default_cache_type",
      [](std::string_view precision, bool attends_in_bfloat16) {
        return std::string(name_of(default_cache_type(precision_of(precision), attends_in_bfloat16)));
      },
      py::arg("precision"), py::kw_only(), py::arg("attends_in_bfloat16"));
  module.def("default_cache_tokens", &default_cache_tokens, py::arg("trained"), py::kw_only(),
             py::arg("per_token"), py::arg("weights"), py::arg("usable"));
  module.def("check_memory", &check_memory, py::arg("cache_tokens"), py::kw_only(), py::arg("per_token"),
             py::arg("usable"));
  module.def("tile_cache_bytes", &tile_cache_bytes, py::arg("manifest"), py::arg("wanted"), py::kw_only(),
             py::arg("usable"));
  module.def("check_frame_tolerance", &check_frame_tolerance, py::arg("tolerance"), py::kw_only(),
             py::arg("cache_bytes"));
  module.def(
      "cache_size",
      [](std::size_t trained, std::optional<double> dynamic_factor, std::optional<std::int64_t> cache_tokens,
         std::optional<std::int64_t> max_context, std::size_t unasked) {
        const RopeFacts rope{1.0, dynamic_factor.has_value(), dynamic_factor.value_or(1.0), trained};
        const CacheSize size = cache_size(rope, cache_tokens, max_context, unasked);
        return std::make_pair(size.cache_tokens, size.context_tokens);
      },
      py::kw_only(), py::arg("trained"), py::arg("dynamic_factor"), py::arg("cache_tokens"),
      py::arg("max_context"), py::arg("unasked"));
}

}  // namespace internvl::bindings
