#include <pybind11/numpy.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "generation/sampler.h"
#include "runtime/error.h"

namespace internvl::bindings {
namespace {

namespace py = pybind11;

template <class Value>
using Vector = py::array_t<Value, py::array::c_style>;

template <class Value>
std::span<const Value> span_of(const Vector<Value>& values) {
  if (values.ndim() != 1) throw PromptError("The logits and the history are arrays of one dimension.");
  return {values.data(), static_cast<std::size_t>(values.size())};
}

}  // namespace

void register_sampler(py::module_& module) {
  module.def(
      "argmax",
      [](const Vector<float>& logits, float repetition_penalty, const Vector<std::int64_t>& history) {
        const auto scores = span_of(logits);
        const auto ids = span_of(history);
        const GilRelease release;
        return argmax(scores, repetition_penalty, ids);
      },
      py::arg("logits").noconvert(), py::arg("repetition_penalty"), py::arg("history").noconvert());

  module.def(
      "token_probabilities",
      [](const Vector<float>& logits, float temperature, std::int64_t top_k, float top_p,
         float repetition_penalty, const Vector<std::int64_t>& history) {
        const auto scores = span_of(logits);
        const auto ids = span_of(history);
        py::array_t<double> probabilities(logits.size());
        double* out = probabilities.mutable_data();
        {
          const GilRelease release;
          TokenDistribution distribution;
          distribution.set(scores, {temperature, top_k, top_p, repetition_penalty}, ids);
          for (const float weight : distribution.weights()) *out++ = weight / distribution.total();
        }
        return probabilities;
      },
      py::arg("logits").noconvert(), py::kw_only(), py::arg("temperature"), py::arg("top_k"),
      py::arg("top_p"), py::arg("repetition_penalty"), py::arg("history").noconvert());

  py::class_<Sampler, std::shared_ptr<Sampler>>(module, "Sampler")
      .def(py::init<std::uint64_t>(), py::arg("seed"))
      .def(
          "sample",
          [](Sampler& sampler, const Vector<float>& logits, float temperature, std::int64_t top_k,
             float top_p, float repetition_penalty, const Vector<std::int64_t>& history) {
            const auto scores = span_of(logits);
            const auto ids = span_of(history);
            const GilRelease release;
            return sampler.sample(scores, {temperature, top_k, top_p, repetition_penalty}, ids);
          },
          py::arg("logits").noconvert(), py::kw_only(), py::arg("temperature"), py::arg("top_k"),
          py::arg("top_p"), py::arg("repetition_penalty"), py::arg("history").noconvert())
      .def("skip", &Sampler::skip, py::call_guard<GilRelease>())
      .def(
          "fork",
          [](const Sampler& sampler, std::uint64_t index) {
            return std::shared_ptr<Sampler>(new Sampler(sampler.fork(index)));
          },
          py::arg("index"));
}

}  // namespace internvl::bindings
