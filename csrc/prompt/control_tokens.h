// Tokens by what they do: which of them steer a conversation, and which a user may type.
//
// Every text that comes from outside (question, history, system message) is encoded by one rule: it never
// becomes a special token that steers a conversation, and it becomes every other added token that stands in
// it, as the checkpoint's own library has it. A special token steers if steers() says so by its name, or if
// the checkpoint's files give it a role: beginning, end, padding, unknown. The others are those with which
// InternVL is asked about places, and those that a fine-tuning added for its task, which its questions and
// answers are written with. Added tokens that are not special, such as Qwen 3's <think>, are tokens wherever
// they stand.
#pragma once

#include <array>
#include <string_view>

namespace internvl {

// Stands for one image in a question; ordinary text to the tokenizer.
inline constexpr std::string_view kImageMark = "<image>";

inline constexpr std::string_view kImageStart = "<img>";
inline constexpr std::string_view kImageEnd = "</img>";
// One place that an image feature takes.
inline constexpr std::string_view kImageContext = "<IMG_CONTEXT>";

// The models are prompted with these, so a user may type them. In the order in which training added them.
inline constexpr std::array<std::string_view, 6> kGroundingTokens = {"<quad>", "</quad>", "<ref>",
                                                                     "</ref>", "<box>",   "</box>"};

inline constexpr std::array<std::string_view, 3> kBosTokens = {"<s>", "<|begin_of_text|>", "<|startoftext|>"};

// The language models' own ends of text. An answer that runs into one is over too.
inline constexpr std::array<std::string_view, 4> kEndOfTextTokens = {"</s>", "<|endoftext|>",
                                                                     "<|end_of_text|>", "<|eot_id|>"};

// Whether a token steers a conversation whatever the checkpoint says of it. Those are the tokens around
// images, the beginnings and ends of text, padding, and every token that is written like a chat token,
// <|...|>: turns, tools and plugins, and what the base models look at.
bool steers(std::string_view token);

}  // namespace internvl
