// An engine that is an object of Python's.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "bundle/manifest.h"
#include "generation/engine.h"
#include "image/pixel_values.h"
#include "runtime/thread_team.h"

namespace internvl::bindings {

// Of an object that satisfies internvl_rt.engines.engine.Engine. Its calls take the GIL.
class PythonEngine : public Engine {
 public:
  // With the GIL. The engine takes the tiles of that manifest's model, which the team normalises.
  PythonEngine(pybind11::object engine, const Manifest& manifest, std::shared_ptr<ThreadTeam> team);

  const CacheRoom& cache() const override { return cache_; }
  EncodedTiles encode(std::span<const std::uint8_t> tiles, std::size_t count,
                      const Progress& progress) override;
  SequenceId new_sequence() override;
  SequenceId fork(SequenceId sequence, std::size_t tokens) override;
  void drop(SequenceId sequence) override;
  std::vector<float> prefill(SequenceId sequence, std::span<const std::int64_t> ids,
                             std::span<const float> features, const Progress& progress) override;
  std::vector<float> decode(std::span<const SequenceId> sequences, std::span<const std::int64_t> tokens,
                            std::span<const std::size_t> counts) override;

 private:
  SequenceId keep(pybind11::object sequence);

  std::shared_ptr<pybind11::object> engine_;
  std::shared_ptr<ThreadTeam> team_;
  Normalisation normalisation_;
  std::size_t tile_size_;
  CacheRoom cache_;
  // Their objects, which the engine may have tied something to; with the GIL.
  std::shared_ptr<pybind11::object> sequences_;
};

}  // namespace internvl::bindings
