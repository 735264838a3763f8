#include "prompt/templates.h"

#include <algorithm>
#include <array>

namespace internvl {
namespace {

constexpr std::string_view kInternvl2System =
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，"
    "英文名叫InternVL, 是一个有用无害的人工智能助手。";
constexpr std::string_view kInternvl2_5System =
    "你是书生·万象，英文名是InternVL，"
    "是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。";

constexpr std::array<std::string_view, 2> kChatMlTokens = {"<|im_start|>", "<|im_end|>"};
constexpr std::array<std::string_view, 4> kPhi3Tokens = {"<|system|>", "<|user|>", "<|assistant|>",
                                                         "<|end|>"};

constexpr ConversationTemplate chat_ml(std::string_view name, std::optional<std::string_view> system_message,
                                       std::string_view separator) {
  return {.name = name,
          .system_message = system_message,
          .system_prefix = "<|im_start|>system\n",
          .user = "<|im_start|>user\n",
          .assistant = "<|im_start|>assistant\n",
          .separator = separator,
          .stop = "<|im_end|>",
          .control_tokens = kChatMlTokens};
}

// Only internvl2_5 and internvl-hf have a newline between <|im_end|> and the next role.
constexpr std::array<ConversationTemplate, 5> kTemplates = {
    chat_ml("internvl2_5", kInternvl2_5System, "<|im_end|>\n"),
    chat_ml("internlm2-chat", kInternvl2System, "<|im_end|>"),
    chat_ml("Hermes-2", kInternvl2System, "<|im_end|>"),
    ConversationTemplate{.name = "phi3-chat",
                         .system_message = kInternvl2System,
                         .system_prefix = "<|system|>\n",
                         .user = "<|user|>\n",
                         .assistant = "<|assistant|>\n",
                         .separator = "<|end|>",
                         .stop = "<|end|>",
                         .control_tokens = kPhi3Tokens},
    // What transformers' own checkpoints (-hf) render: no system message unless there is one.
    chat_ml("internvl-hf", std::nullopt, "<|im_end|>\n"),
};

}  // namespace

std::span<const ConversationTemplate> conversation_templates() { return kTemplates; }

const ConversationTemplate* find_template(std::string_view name) {
  const auto found = std::ranges::find(kTemplates, name, &ConversationTemplate::name);
  return found == kTemplates.end() ? nullptr : &*found;
}

}  // namespace internvl
