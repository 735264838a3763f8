// How an answer is generated.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "generation/options.h"
#include "generation/sampler.h"
#include "prompt/tokenizer.h"

namespace internvl {

struct GenerationSettings {
  std::size_t max_new_tokens = kMaxNewTokens.standard;
  bool do_sample = false;  // else the likeliest token is taken, and of `sampling` the penalty alone counts
  SamplingOptions sampling = {.temperature = static_cast<float>(kTemperature.standard),  // see sampler.h
                              .top_k = kTopK.standard,
                              .top_p = static_cast<float>(kTopP.standard),
                              .repetition_penalty = static_cast<float>(kRepetitionPenalty.standard)};
  std::vector<std::string> stop;  // texts that end the answer; they are not part of it
  KeepTokens keep = KeepTokens::none;
  bool ignore_stop_tokens = false;

  // Whether tokens are drawn: a temperature of 0 takes the likeliest.
  bool draws() const { return do_sample && sampling.temperature > 0.0F; }
};

// Each throws PromptError for a text that is out of its range.
void check_stop(std::span<const std::string> stop);
void check_choices(std::span<const std::string> choices);

}  // namespace internvl
