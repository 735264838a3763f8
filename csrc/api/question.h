// What a question of the C ABI says, with the options that it is asked with.
#pragma once

#include <internvl/c.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "api/loaded_model.h"
#include "prompt/conversation.h"
#include "prompt/messages.h"

struct internvl_question {
  // A text with what stands around it, or messages.
  std::optional<std::string> text;
  std::vector<internvl::Exchange> rounds;
  std::optional<std::string> system;
  std::vector<internvl::Message> messages;
  std::vector<std::shared_ptr<const internvl::api::RgbImage>> images;
};

namespace internvl::api {

internvl_ask_options default_ask_options();

// The closeness that an internvl_detail is; none for INTERNVL_DETAIL_UNSAID. Throws PromptError.
std::optional<Detail> detail_of(std::int32_t number);

// `given`: may be null. Throws PromptError, ImageError for what does not go together or is out of range.
Asked asked_of(const internvl_question& question, const internvl_ask_options* given);

}  // namespace internvl::api
