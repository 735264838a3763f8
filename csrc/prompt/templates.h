// The conversation templates of the family: the exact strings between which messages stand.
#pragma once

#include <optional>
#include <span>
#include <string_view>

namespace internvl {

// How a conversation is written down.
//
// A prompt is `system_prefix`, the system message and `separator`, then role, message and `separator` for
// every message, then `assistant`. A message that is empty has no separator.
struct ConversationTemplate {
  std::string_view name;  // as `template` in a checkpoint's config.json; native checkpoints name none
  // Used where neither the caller nor the checkpoint's configuration gives another; none is written without.
  std::optional<std::string_view> system_message;
  std::string_view system_prefix;
  std::string_view user;
  std::string_view assistant;
  std::string_view separator;
  std::string_view stop;  // the token that ends an answer
  // The tokens in the strings above that are encoded as one id; every prompt begins with the first.
  std::span<const std::string_view> control_tokens;
};

std::span<const ConversationTemplate> conversation_templates();

// The template of a name; nullptr if there is none.
const ConversationTemplate* find_template(std::string_view name);

}  // namespace internvl
