#include "prompt/renderer.h"

#include <algorithm>
#include <cstddef>
#include <utility>
#include <variant>

#include "prompt/control_tokens.h"
#include "runtime/error.h"
#include "runtime/quoted.h"

namespace internvl {
namespace {

const ConversationTemplate& known_template(std::string_view name) {
  const ConversationTemplate* found = find_template(name);
  if (found == nullptr) {
    std::string known;
    for (const ConversationTemplate& other : conversation_templates()) {
      known += (known.empty() ? "" : ", ") + std::string(other.name);
    }
    throw BundleError("the bundle's conversation template " + quoted(name) +
                      " is not known; this release knows " + known + ".");
  }
  return *found;
}

std::vector<PromptPart> cut_at(std::span<const std::string_view> control_tokens, std::string_view written) {
  std::vector<PromptPart> parts;
  while (!written.empty()) {
    std::size_t at = written.size();
    std::string_view found;
    for (const std::string_view token : control_tokens) {
      const std::size_t begin = written.find(token);
      if (begin < at) {
        at = begin;
        found = token;
      }
    }
    if (at > 0) parts.push_back({std::string(written.substr(0, at))});
    if (!found.empty()) parts.push_back({std::string(found), true});
    written.remove_prefix(at + found.size());
  }
  return parts;
}

void check_tiles(std::span<const std::int64_t> tiles) {
  if (std::ranges::all_of(tiles, [](std::int64_t count) { return count >= 1; })) return;
  std::string counts;
  for (const std::int64_t count : tiles) counts += (counts.empty() ? "" : ", ") + std::to_string(count);
  throw PromptError("every image has at least one tile; found tile counts [" + counts + "].");
}

std::string text_of(std::span<const PromptPart> parts, const Tokenizer& tokenizer) {
  std::string text;
  for (const PromptPart& part : parts) {
    for (std::int64_t i = 0; i < part.count; ++i) text += part.text;
    for (const std::int64_t id : part.ids) text += tokenizer.token_bytes(id, KeepTokens::all, false);
  }
  return text;
}

}  // namespace

PromptRenderer::PromptRenderer(std::shared_ptr<const Tokenizer> tokenizer, PromptFacts facts,
                               std::size_t tokens_per_tile)
    : tokenizer_(std::move(tokenizer)),
      facts_(std::move(facts)),
      tokens_per_tile_(static_cast<std::int64_t>(tokens_per_tile)),
      template_(&known_template(facts_.template_name)) {
  for (const std::string_view token : {kImageStart, kImageEnd}) tokenizer_->control_id(token);
  for (const std::string_view token : template_->control_tokens) tokenizer_->control_id(token);
  const std::int64_t context_id = tokenizer_->control_id(kImageContext);
  if (context_id != facts_.image_context_id) {
    throw BundleError(std::string(kImageContext) + " is the id " + std::to_string(context_id) +
                      " in the bundle's tokenizer and " + std::to_string(facts_.image_context_id) +
                      " in its manifest.");
  }
  const auto cut = [&](std::string_view written) { return cut_at(template_->control_tokens, written); };
  system_prefix_ = cut(template_->system_prefix);
  user_ = cut(template_->user);
  assistant_ = cut(template_->assistant);
  separator_ = cut(template_->separator);
}

RenderedPrompt PromptRenderer::render(const Conversation& conversation,
                                      std::span<const std::int64_t> tiles) const {
  check_image_count(count_image_places(conversation.turns), tiles.size());
  check_tiles(tiles);
  const std::vector<PromptPart> written = parts_of(conversation, tiles);
  std::vector<std::int64_t> ids;
  if (facts_.bos_id) ids.push_back(*facts_.bos_id);
  ids.insert(ids.end(), facts_.prefix_ids.begin(), facts_.prefix_ids.end());
  const std::vector<std::int64_t> encoded = tokenizer_->encode(written);
  ids.insert(ids.end(), encoded.begin(), encoded.end());
  return {text_of(written, *tokenizer_), std::move(ids)};
}

std::vector<PromptPart> PromptRenderer::parts_of(const Conversation& conversation,
                                                 std::span<const std::int64_t> tiles) const {
  std::vector<PromptPart> parts;
  const auto add = [&](std::span<const PromptPart> cut) {
    parts.insert(parts.end(), cut.begin(), cut.end());
  };
  if (const auto system = system_message(conversation)) {
    add(system_prefix_);
    parts.push_back({std::string(*system)});
    add(separator_);
  }
  auto count = tiles.begin();
  for (const Turn& turn : conversation.turns) {
    add(turn.role == Role::user ? user_ : assistant_);
    bool empty = true;
    for (const TurnPart& part : turn.parts) {
      if (const auto* text = std::get_if<std::string>(&part)) {
        empty = empty && text->empty();
        parts.push_back({*text});
      } else if (const auto* generated = std::get_if<GeneratedTokens>(&part)) {
        empty = empty && generated->ids.empty();
        parts.push_back({.text = {}, .ids = generated->ids});
      } else {
        empty = false;
        parts.push_back({std::string(kImageStart), true});
        parts.push_back({std::string(kImageContext), true, tokens_per_tile_ * *count++});
        parts.push_back({std::string(kImageEnd), true});
      }
    }
    // The authors' code writes no separator after an empty message.
    if (!empty) add(separator_);
  }
  add(assistant_);
  return parts;
}

std::optional<std::string_view> PromptRenderer::system_message(const Conversation& conversation) const {
  if (conversation.system) return conversation.system;
  if (facts_.system_message) return facts_.system_message;
  return template_->system_message;
}

}  // namespace internvl
