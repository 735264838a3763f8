#include "prompt/vocabulary.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <utility>

#include "prompt/byte_alphabet.h"
#include "runtime/error.h"
#include "runtime/utf8.h"

namespace internvl {
namespace {

constexpr std::int64_t kMaxId = 1 << 24;

}  // namespace

Vocabulary::Vocabulary(const json::Value& document, bool byte_level) : byte_level_(byte_level) {
  if (!document.is_object()) throw BundleError("is not a tokenizer (model.vocab is not an object).");
  std::vector<std::pair<std::int32_t, std::string_view>> tokens;
  tokens.reserve(document.size());
  document.each_member([&](std::string_view name, const json::Value& value) {
    const auto id = value.integer();
    if (!id || *id < 0 || *id >= kMaxId) {
      throw BundleError("is not a tokenizer (the id of '" + std::string(name) + "' in model.vocab is " +
                        std::string(value.text().substr(0, 40)) + ").");
    }
    tokens.emplace_back(static_cast<std::int32_t>(*id), name);
  });
  std::ranges::sort(tokens, {}, &std::pair<std::int32_t, std::string_view>::first);
  for (std::size_t i = 1; i < tokens.size(); ++i) {
    if (tokens[i].first == tokens[i - 1].first) {
      throw BundleError("is not a tokenizer (model.vocab gives the id " + std::to_string(tokens[i].first) +
                        " to '" + std::string(tokens[i - 1].second) + "' and to '" +
                        std::string(tokens[i].second) + "').");
    }
  }
  size_ = tokens.size();
  begins_.push_back(0);
  for (const auto& [id, name] : tokens) {
    begins_.resize(static_cast<std::size_t>(id) + 1, static_cast<std::uint32_t>(texts_.size()));
    const auto bytes = byte_level ? byte_alphabet::bytes_of(name) : std::nullopt;
    if (byte_level && !bytes) names_.push_back(id);
    longest_ = std::max(longest_, utf8::count(name));
    texts_ += bytes ? std::string_view(*bytes) : name;
    begins_.push_back(static_cast<std::uint32_t>(texts_.size()));
  }
  index();
}

void Vocabulary::index() {
  slots_.assign(std::bit_ceil(2 * size_ + 2), -1);
  const std::size_t mask = slots_.size() - 1;
  auto nameless = names_.begin();
  for (std::int32_t id = 0; id < end(); ++id) {
    if (nameless != names_.end() && *nameless == id) {
      ++nameless;
      continue;
    }
    const std::string_view token = text(id);
    if (token.empty()) continue;
    std::size_t slot = std::hash<std::string_view>{}(token)&mask;
    while (slots_[slot] >= 0) {
      if (text(slots_[slot]) == token) {
        throw BundleError("is not a tokenizer (model.vocab has '" + std::string(token) + "' twice).");
      }
      slot = (slot + 1) & mask;
    }
    slots_[slot] = id;
  }
}

bool Vocabulary::contains(std::int64_t id) const { return id >= 0 && id < end() && !text(id).empty(); }

std::string_view Vocabulary::text(std::int64_t id) const {
  const auto at = static_cast<std::size_t>(id);
  return std::string_view(texts_).substr(begins_[at], begins_[at + 1] - begins_[at]);
}

std::int32_t Vocabulary::find(std::string_view text) const {
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t slot = std::hash<std::string_view>{}(text)&mask; slots_[slot] >= 0;
       slot = (slot + 1) & mask) {
    if (this->text(slots_[slot]) == text) return slots_[slot];
  }
  return -1;
}

std::int32_t Vocabulary::find_name(std::string_view name) const {
  if (!byte_level_) return find(name);
  if (const auto bytes = byte_alphabet::bytes_of(name)) return find(*bytes);
  const auto found = std::ranges::find_if(names_, [&](std::int32_t id) { return text(id) == name; });
  return found == names_.end() ? -1 : *found;
}

}  // namespace internvl
