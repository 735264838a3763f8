// How the conversations of one bundle become token ids, and ids become text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace internvl {

struct PromptFacts {
  std::string template_name;
  std::optional<std::string> system_message;  // replaces the template's own
  std::int64_t image_context_id = 0;
  std::optional<std::int64_t> bos_id;    // stands once in front of every prompt
  std::vector<std::int64_t> stop_ids;    // end an answer: the template's stop token first
  std::vector<std::int64_t> prefix_ids;  // in front of the first token of every prompt, behind bos_id
  std::vector<std::int64_t> task_ids;    // special tokens that text may become, beside the grounding tokens
  bool clean_up_spaces = false;          // an answer loses the spaces before punctuation
};

}  // namespace internvl
