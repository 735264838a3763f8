#include "bindings/python_engine.h"

#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "bindings/python_failure.h"
#include "runtime/error.h"

namespace internvl::bindings {
namespace {

namespace py = pybind11;

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;

Floats array_of(std::span<const float> values, std::vector<py::ssize_t> shape) {
  return Floats(std::move(shape), values.data());
}

Floats array_owning(std::unique_ptr<float[]> values, std::span<const std::size_t> shape) {
  float* const first = values.get();
  const py::capsule owner(first, [](void* owned) { delete[] static_cast<float*>(owned); });
  static_cast<void>(values.release());
  return Floats(std::vector<std::size_t>(shape.begin(), shape.end()), first, owner);
}

std::vector<float> vector_of(const py::handle& array) {
  const auto values = array.cast<Floats>();
  return {values.data(), values.data() + values.size()};
}

std::vector<float> optional_vector_of(const py::object& array) {
  return array.is_none() ? std::vector<float>() : vector_of(array);
}

// A progress of the core as a function of Python's, for one call. What it throws ends the call, as whatever
// exception Python makes of it; it is thrown again behind the call.
class ProgressFunction {
 public:
  explicit ProgressFunction(const Engine::Progress& progress) : watch_(std::make_shared<Watch>(&progress)) {}
  ~ProgressFunction() { watch_->progress = nullptr; }
  ProgressFunction(const ProgressFunction&) = delete;
  ProgressFunction& operator=(const ProgressFunction&) = delete;
  ProgressFunction(ProgressFunction&&) = delete;
  ProgressFunction& operator=(ProgressFunction&&) = delete;

  py::cpp_function function() const {
    return py::cpp_function([watch = watch_](std::size_t done) {
      if (watch->progress == nullptr) return;
      try {
        (*watch->progress)(done);
      } catch (...) {
        watch->failure = std::current_exception();
        throw Error("The call was ended.");
      }
    });
  }
  void rethrow() const {
    if (watch_->failure) std::rethrow_exception(watch_->failure);
  }

 private:
  struct Watch {
    explicit Watch(const Engine::Progress* watched) : progress(watched) {}
    const Engine::Progress* progress;
    std::exception_ptr failure;
  };

  std::shared_ptr<Watch> watch_;
};

// Calls a function that uses Python and a progress.
template <class Function>
auto with_progress(const Engine::Progress& progress, Function&& function) {
  return with_python([&] {
    const ProgressFunction watched(progress);
    try {
      return function(watched.function());
    } catch (const py::error_already_set&) {
      watched.rethrow();
      throw;
    }
  });
}

}  // namespace

PythonEngine::PythonEngine(py::object engine, const Manifest& manifest, std::shared_ptr<ThreadTeam> team)
    : team_(std::move(team)),
      normalisation_(make_normalisation(manifest.tiling.mean, manifest.tiling.deviation)),
      tile_size_(manifest.vision.image_size),
      cache_(engine.attr("cache").cast<CacheRoom>()),
      sequences_(owned_anywhere(py::dict())) {
  engine_ = owned_anywhere(std::move(engine));
}

EncodedTiles PythonEngine::encode(std::span<const std::uint8_t> tiles, std::size_t count,
                                  const Progress& progress) {
  auto values = std::make_unique_for_overwrite<float[]>(tiles.size());
  write_pixel_values(tiles.data(), count, tile_size_, normalisation_, values.get(), *team_);
  return with_progress(progress, [&](const py::cpp_function& watch) {
    const std::array<std::size_t, 4> shape{count, rgb_channels, tile_size_, tile_size_};
    const Floats pixels = array_owning(std::move(values), shape);
    const py::object encoded = engine_->attr("encode_tiles")(pixels, watch);
    return EncodedTiles{vector_of(encoded.attr("features")), optional_vector_of(encoded.attr("compressed")),
                        optional_vector_of(encoded.attr("scores")), encoded.attr("vit_ms").cast<double>(),
                        encoded.attr("projector_ms").cast<double>()};
  });
}

SequenceId PythonEngine::keep(py::object sequence) {
  const auto id = sequence.cast<SequenceId>();
  (*sequences_)[py::int_(id)] = std::move(sequence);
  return id;
}

SequenceId PythonEngine::new_sequence() {
  return with_python([&] { return keep(engine_->attr("new_sequence")()); });
}

SequenceId PythonEngine::fork(SequenceId sequence, std::size_t tokens) {
  return with_python([&] { return keep(engine_->attr("fork")(sequence, tokens)); });
}

void PythonEngine::drop(SequenceId sequence) {
  with_python([&] {
    engine_->attr("drop")(sequence);
    sequences_->attr("pop")(sequence, py::none());
  });
}

std::vector<float> PythonEngine::prefill(SequenceId sequence, std::span<const std::int64_t> ids,
                                         std::span<const float> features, const Progress& progress) {
  return with_progress(progress, [&](const py::cpp_function& watch) {
    const auto places = static_cast<py::ssize_t>(ids.size());
    py::object rows = py::none();
    if (!features.empty()) {
      const auto hidden = engine_->attr("hidden_size").cast<py::ssize_t>();
      rows = array_of(features, {static_cast<py::ssize_t>(features.size()) / hidden, hidden});
    }
    const py::object embeddings = engine_->attr("embed")(py::array_t<std::int64_t>(places, ids.data()), rows);
    const py::object logits = engine_->attr("prefill")(sequence, embeddings, py::arg("progress") = watch);
    return vector_of(logits[py::int_(-1)]);
  });
}

std::vector<float> PythonEngine::decode(std::span<const SequenceId> sequences,
                                        std::span<const std::int64_t> tokens,
                                        std::span<const std::size_t> counts) {
  return with_python([&] {
    const std::vector<SequenceId> to(sequences.begin(), sequences.end());
    const std::vector<std::int64_t> run(tokens.begin(), tokens.end());
    if (to.size() == run.size()) return vector_of(engine_->attr("decode")(to, run));
    return vector_of(
        engine_->attr("decode")(to, run, std::vector<std::size_t>(counts.begin(), counts.end())));
  });
}

}  // namespace internvl::bindings
