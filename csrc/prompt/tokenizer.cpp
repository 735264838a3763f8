#include "prompt/tokenizer.h"

#include <algorithm>
#include <utility>

#include "prompt/control_tokens.h"
#include "runtime/error.h"
#include "runtime/utf8.h"

namespace internvl {
namespace {

[[noreturn]] void fail(const std::string& what) { throw BundleError("is not a tokenizer (" + what + ")."); }

std::optional<json::Value> component(const json::Value& document, std::string_view name) {
  const auto found = document.find(name);
  return found && !found->is_null() ? found : std::nullopt;
}

json::Value model_of(const json::Value& document) {
  const auto model = document.find("model");
  if (!model || !model->is_object()) fail("it has no model");
  return *model;
}

template <class Component>
Component read_component(const json::Value& document, std::string_view name) {
  const auto found = component(document, name);
  return found ? Component(*found) : Component();
}

TokenDecoding read_decoding(const json::Value& document) {
  const auto found = component(document, "decoder");
  if (!found) throw BundleError("the tokenizer has no decoder.");
  return TokenDecoding(*found);
}

bool flag(const json::Value& token, std::string_view name) {
  const auto value = token.find(name);
  return value && value->boolean().value_or(false);
}

}  // namespace

Tokenizer::Tokenizer(std::string json, const TokenizerOptions& options)
    : Tokenizer(json::Document(std::move(json)).root(), options) {}

Tokenizer::Tokenizer(const json::Value& document, const TokenizerOptions& options)
    : normaliser_(read_component<Normaliser>(document, "normalizer")),
      pre_tokeniser_(read_component<PreTokeniser>(document, "pre_tokenizer")),
      model_(model_of(document), pre_tokeniser_.byte_level()),
      decoding_(read_decoding(document)),
      clean_up_spaces_(options.clean_up_spaces),
      vocab_size_(model_.vocabulary().size()),
      longest_token_(model_.vocabulary().longest()) {
  if (decoding_.byte_level() != pre_tokeniser_.byte_level()) {
    throw BundleError("the tokenizer has ByteLevel as a pre_tokenizer or as a decoder, and not as both.");
  }
  if (const auto tokens = component(document, "added_tokens")) read_added_tokens(*tokens);
  allow_in_text(options);
}

void Tokenizer::read_added_tokens(const json::Value& document) {
  if (!document.is_array()) fail("added_tokens is not a list");
  const Vocabulary& vocabulary = model_.vocabulary();
  document.each_item([&](const json::Value& entry) {
    const std::string_view content = entry.find_string("content").value_or("");
    const auto number = entry.find("id");
    const std::int64_t id = number ? number->integer().value_or(-1) : -1;
    if (content.empty() || id < 0) fail("an entry of added_tokens has no content or no id");
    AddedToken token = {std::string(content),       id,
                        flag(entry, "single_word"), flag(entry, "lstrip"),
                        flag(entry, "rstrip"),      flag(entry, "normalized"),
                        flag(entry, "special")};
    const std::int32_t known = vocabulary.find_name(token.content);
    const bool taken = known >= 0 ? known != token.id : vocabulary.contains(token.id);
    if (taken || added_.contains(token.id) || added_ids_.contains(token.content)) {
      fail("the id " + std::to_string(token.id) + " of '" + token.content +
           "' in added_tokens is that of another token, or the token has two");
    }
    vocab_size_ += known < 0;
    longest_token_ = std::max(longest_token_, utf8::count(token.content));
    const auto [added, inserted] = added_.emplace(token.id, std::move(token));
    added_ids_.emplace(added->second.content, added->first);
  });
}

void Tokenizer::allow_in_text(const TokenizerOptions& options) {
  for (const std::string_view content : kGroundingTokens) {
    const auto id = added_ids_.find(content);
    if (id != added_ids_.end() && added_.at(id->second).special)
      visible_from_[id->second] = KeepTokens::grounding;
  }
  for (const std::int64_t id : options.task_ids) {
    const auto token = added_.find(id);
    if (token == added_.end() || !token->second.special || steers(token->second.content)) {
      throw BundleError("prompt.task_ids of the manifest has the id " + std::to_string(id) +
                        ", which is not a special token that text may become.");
    }
    visible_from_.try_emplace(id, KeepTokens::task);
  }
  // In the order of ids, so that of equal patterns the same one counts every time.
  std::vector<std::int64_t> ids;
  ids.reserve(added_.size());
  for (const auto& [id, token] : added_) ids.push_back(id);
  std::ranges::sort(ids);
  for (const std::int64_t id : ids) {
    const AddedToken& token = added_.at(id);
    if (token.special && !visible_from_.contains(id)) continue;
    if (!token.special && token.normalized) {
      normalised_.add(normaliser_.normalise(token.content), token);
    } else {
      as_written_.add(token.content, token);
    }
  }
}

std::optional<std::int64_t> Tokenizer::token_id(std::string_view token) const {
  if (const auto added = added_ids_.find(token); added != added_ids_.end()) return added->second;
  const std::int32_t id = model_.vocabulary().find_name(token);
  return id < 0 ? std::nullopt : std::optional<std::int64_t>(id);
}

const AddedToken& Tokenizer::control(std::string_view token) const {
  const auto id = added_ids_.find(token);
  if (id == added_ids_.end() || !added_.at(id->second).special) {
    throw BundleError("'" + std::string(token) + "' is not a special token of the bundle's tokenizer.");
  }
  return added_.at(id->second);
}

std::int64_t Tokenizer::control_id(std::string_view token) const { return control(token).id; }

bool Tokenizer::is_special(std::int64_t id) const {
  const auto token = added_.find(id);
  return token != added_.end() && token->second.special;
}

void Tokenizer::cut(std::string_view text, FunctionRef<void(std::string_view)> word,
                    FunctionRef<void(std::int64_t)> token) const {
  const auto normal = [&](std::string_view between, bool first) {
    normalised_.cut(
        between,
        [&](std::string_view rest) {
          pre_tokeniser_.cut(rest, first && rest.data() == between.data(), word);
        },
        token);
  };
  as_written_.cut(
      text,
      [&](std::string_view between) {
        const bool first = between.data() == text.data();
        if (normaliser_.empty()) return normal(between, first);
        normal(normaliser_.normalise(between), first);
      },
      token);
}

std::vector<std::int64_t> Tokenizer::encode(std::span<const PromptPart> parts) const {
  std::vector<std::int64_t> ids;
  BytePairScratch scratch;
  std::string text;
  bool strip_next = false;
  const auto encode_text = [&](bool strip_end) {
    std::string clean = utf8::valid(text) ? std::move(text) : utf8::repaired(text);
    text.clear();
    if (const auto mark = normaliser_.space_mark()) clean = replaced(clean, *mark, " ");
    std::string_view run = clean;
    if (strip_next) run.remove_prefix(end_of_leading_space(run));
    if (strip_end) run = run.substr(0, begin_of_trailing_space(run));
    strip_next = false;
    cut(
        run, [&](std::string_view word) { model_.encode(word, scratch, ids); },
        [&](std::int64_t id) { ids.push_back(id); });
  };
  for (const PromptPart& part : parts) {
    if (!part.ids.empty()) {
      encode_text(false);
      ids.insert(ids.end(), part.ids.begin(), part.ids.end());
    } else if (!part.control) {
      text += part.text;
    } else if (part.count > 0) {
      const AddedToken& token = control(part.text);
      encode_text(token.lstrip);
      strip_next = token.rstrip;
      ids.insert(ids.end(), static_cast<std::size_t>(part.count), token.id);
    }
  }
  encode_text(false);
  return ids;
}

std::vector<std::string> Tokenizer::words(std::string_view text) const {
  std::vector<std::string> found;
  cut(
      utf8::repaired(text), [&](std::string_view word) { found.emplace_back(word); },
      [&](std::int64_t id) { found.push_back(added_.at(id).content); });
  return found;
}

std::string Tokenizer::token_bytes(std::int64_t id, KeepTokens keep, bool strip_space) const {
  if (const auto token = added_.find(id); token != added_.end()) {
    if (!token->second.special || keep == KeepTokens::all) return token->second.content;
    const auto from = visible_from_.find(id);
    return from != visible_from_.end() && keep >= from->second ? token->second.content : "";
  }
  if (!model_.vocabulary().contains(id)) return "";
  return decoding_.bytes(model_.vocabulary().text(id), strip_space);
}

}  // namespace internvl
