// A conversation to the exact token ids that the models were trained on.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "prompt/conversation.h"
#include "prompt/prompt_facts.h"
#include "prompt/templates.h"
#include "prompt/tokenizer.h"

namespace internvl {

// A prompt with its image places expanded.
struct RenderedPrompt {
  // Control and image context tokens written out; what a tokenizer puts in front of a text is not in it.
  std::string text;
  std::vector<std::int64_t> input_ids;  // [n]
};

// May be used from several threads.
class PromptRenderer {
 public:
  // `tokens_per_tile`: image context tokens. Throws BundleError if the template is unknown, or the tokenizer
  // lacks one of its tokens.
  PromptRenderer(std::shared_ptr<const Tokenizer> tokenizer, PromptFacts facts, std::size_t tokens_per_tile);

  // Writes a conversation down. `tiles`: of every image, in the order of the image places. Throws PromptError
  // if there are more image places than images, or fewer, or an image has no tiles.
  RenderedPrompt render(const Conversation& conversation, std::span<const std::int64_t> tiles) const;

 private:
  std::vector<PromptPart> parts_of(const Conversation& conversation,
                                   std::span<const std::int64_t> tiles) const;
  std::optional<std::string_view> system_message(const Conversation& conversation) const;

  std::shared_ptr<const Tokenizer> tokenizer_;
  PromptFacts facts_;
  std::int64_t tokens_per_tile_;
  const ConversationTemplate* template_;
  // The strings of the template, cut at its control tokens.
  std::vector<PromptPart> system_prefix_;
  std::vector<PromptPart> user_;
  std::vector<PromptPart> assistant_;
  std::vector<PromptPart> separator_;
};

}  // namespace internvl
