// An engine that is an object of Python's.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "generation/engine.h"

namespace internvl::bindings {

// Of an object that satisfies internvl_rt.engines.engine.Engine. Its calls take the GIL.
class PythonEngine : public Engine {
 public:
  // With the GIL.
  explicit PythonEngine(pybind11::object engine);

  const CacheRoom& cache() const override { return cache_; }
  EncodedTiles encode(std::span<const float> pixel_values, std::size_t tiles,
                      const Progress& progress) override;
  SequenceId new_sequence() override;
  SequenceId fork(SequenceId sequence) override;
  void drop(SequenceId sequence) override;
  std::vector<float> prefill(SequenceId sequence, std::span<const std::int64_t> ids,
                             std::span<const float> features, const Progress& progress) override;
  std::vector<float> decode(std::span<const SequenceId> sequences, std::span<const std::int64_t> tokens,
                            std::span<const std::size_t> counts) override;

 private:
  SequenceId keep(pybind11::object sequence);

  std::shared_ptr<pybind11::object> engine_;
  CacheRoom cache_;
  // Their objects, which the engine may have tied something to; with the GIL.
  std::shared_ptr<pybind11::object> sequences_;
};

}  // namespace internvl::bindings
