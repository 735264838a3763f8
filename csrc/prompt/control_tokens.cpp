#include "prompt/control_tokens.h"

#include <algorithm>

namespace internvl {

bool steers(std::string_view token) {
  constexpr std::array<std::string_view, 5> kMedia = {kImageStart, kImageEnd, kImageContext, kImageMark,
                                                      "<video>"};
  constexpr std::array<std::string_view, 6> kOtherRoles = {"<bos>", "<eos>", "<unk>",
                                                           "<pad>", "[UNK]", "[PAD]"};
  const auto in = [&](const auto& tokens) { return std::ranges::find(tokens, token) != tokens.end(); };
  const bool like_chat = token.size() >= 4 && token.starts_with("<|") && token.ends_with("|>");
  return like_chat || in(kMedia) || in(kBosTokens) || in(kEndOfTextTokens) || in(kOtherRoles);
}

}  // namespace internvl
