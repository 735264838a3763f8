#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "bindings/watched_progress.h"
#include "bundle/manifest.h"
#include "kernels/attention/attention.h"
#include "model/decoder.h"
#include "model/sequence_lease.h"
#include "ops/cpu/cpu_device.h"
#include "runtime/error.h"

namespace internvl::bindings {

namespace py = pybind11;

namespace {

using Floats = py::array_t<float, py::array::c_style>;
using Integers = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;

std::string shape_of(const py::array& array) {
  std::string text = "[";
  for (py::ssize_t i = 0; i < array.ndim(); ++i) text += (i > 0 ? ", " : "") + std::to_string(array.shape(i));
  return text + "]";
}

void check_rows(const Floats& array, std::size_t width, const char* what) {
  if (array.ndim() == 2 && static_cast<std::size_t>(array.shape(1)) == width) return;
  throw PromptError(std::string(what) + " have the shape " + shape_of(array) + "; expected float32 [n, " +
                    std::to_string(width) + "].");
}

template <class T>
std::span<const T> view(const py::array_t<T, py::array::c_style | py::array::forcecast>& array,
                        const char* what) {
  if (array.ndim() != 1) {
    throw PromptError(std::string(what) + " have the shape " + shape_of(array) + "; expected one dimension.");
  }
  return {array.data(), static_cast<std::size_t>(array.size())};
}

Floats new_array(std::size_t rows, std::size_t columns) {
  return Floats({static_cast<py::ssize_t>(rows), static_cast<py::ssize_t>(columns)});
}

// Dropping a sequence waits for its turn at the cache.
struct WithoutTheGil {
  void operator()(SequenceLease* lease) const {
    const GilRelease release;
    delete lease;
  }
};

Floats prefill(Decoder& decoder, SequenceId sequence, const Floats& embeddings, bool all_logits,
               const WatchedProgress::Function& progress) {
  check_rows(embeddings, decoder.facts().hidden_size, "embeddings");
  const auto n = static_cast<std::size_t>(embeddings.shape(0));
  Floats logits = new_array(all_logits ? n : 1, decoder.facts().vocab_size);
  float* out = logits.mutable_data();
  const float* in = embeddings.data();
  WatchedProgress watched(progress);
  {
    const GilRelease release;
    decoder.prefill(sequence, in, n, all_logits, out, std::ref(watched));
  }
  return logits;
}

Floats decode(Decoder& decoder, const Integers& sequences, const Integers& tokens,
              const std::optional<std::vector<std::size_t>>& counts) {
  const auto ids = view(sequences, "sequences");
  const auto values = view(tokens, "tokens");
  Floats logits = new_array(ids.size(), decoder.facts().vocab_size);
  float* out = logits.mutable_data();
  {
    const GilRelease release;
    if (counts) {
      decoder.decode(ids, values, *counts, out);
    } else {
      decoder.decode(ids, values, out);
    }
  }
  return logits;
}

Floats embed(const Decoder& decoder, const Integers& tokens, const std::optional<Floats>& features,
             std::int64_t image_token) {
  const auto ids = view(tokens, "token ids");
  std::size_t rows = 0;
  if (features) {
    check_rows(*features, decoder.facts().hidden_size, "image features");
    rows = static_cast<std::size_t>(features->shape(0));
  }
  Floats embeddings = new_array(ids.size(), decoder.facts().hidden_size);
  float* out = embeddings.mutable_data();
  const float* in = features ? features->data() : nullptr;
  {
    const GilRelease release;
    decoder.embed(ids, in, rows, image_token, out);
  }
  return embeddings;
}

}  // namespace

void register_decoder(py::module_& module) {
  module.attr("CACHE_BLOCK") = cache_block;
  py::class_<Decoder, std::shared_ptr<Decoder>>(module, "Decoder")
      .def(py::init([](const Manifest& manifest, std::shared_ptr<WeightFile> weights,
                       std::shared_ptr<ThreadTeam> team, std::size_t cache_tokens,
                       const std::string& cache_type, std::size_t prefill_chunk) {
             const GilRelease release;  // the cache may take gigabytes
             return std::make_shared<Decoder>(
                 manifest.llm.decoder, std::move(weights), std::make_shared<CpuDevice>(std::move(team)),
                 DecoderOptions{cache_tokens, cache_type_from(cache_type), prefill_chunk});
           }),
           py::arg("manifest"), py::arg("weights"), py::arg("team"), py::kw_only(), py::arg("cache_tokens"),
           py::arg("cache_type") = "float32", py::arg("prefill_chunk") = 256)
      .def_property_readonly("cache_tokens", &Decoder::cache_tokens)
      .def_property_readonly("free_tokens",
                             py::cpp_function(&Decoder::free_tokens, py::call_guard<GilRelease>()))
      .def("new_sequence", &Decoder::new_sequence, py::call_guard<GilRelease>())
      .def("fork", &Decoder::fork, py::arg("sequence"), py::arg("tokens"), py::call_guard<GilRelease>())
      .def("drop", &Decoder::drop, py::arg("sequence"), py::call_guard<GilRelease>())
      .def("length", &Decoder::length, py::arg("sequence"), py::call_guard<GilRelease>())
      .def("prefill", &prefill, py::arg("sequence"), py::arg("embeddings"), py::arg("all_logits") = false,
           py::arg("progress") = py::none())
      .def("decode", &decode, py::arg("sequences"), py::arg("tokens"), py::arg("counts") = py::none())
      .def("embed", &embed, py::arg("token_ids"), py::arg("features").none(true), py::arg("image_token"));
  py::class_<SequenceLease, std::unique_ptr<SequenceLease, WithoutTheGil>>(module, "SequenceLease")
      .def(py::init<const std::shared_ptr<Decoder>&>(), py::arg("decoder"), py::call_guard<GilRelease>())
      .def(py::init<const std::shared_ptr<Decoder>&, SequenceId, std::size_t>(), py::arg("decoder"),
           py::arg("origin"), py::arg("tokens"), py::call_guard<GilRelease>())
      .def_property_readonly("id", &SequenceLease::id);
}

}  // namespace internvl::bindings
