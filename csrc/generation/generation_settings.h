// How an answer is generated.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "generation/sampler.h"
#include "prompt/tokenizer.h"

namespace internvl {

struct GenerationSettings {
  std::size_t max_new_tokens = 1024;
  bool do_sample = false;    // else the likeliest token is taken, and of `sampling` the penalty alone counts
  SamplingOptions sampling;  // see sampler.h
  std::vector<std::string> stop;  // texts that end the answer; they are not part of it
  KeepTokens keep = KeepTokens::none;
  bool ignore_stop_tokens = false;
};

}  // namespace internvl
