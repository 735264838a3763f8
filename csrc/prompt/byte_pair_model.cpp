#include "prompt/byte_pair_model.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>
#include <optional>

#include "prompt/byte_alphabet.h"
#include "runtime/error.h"
#include "runtime/utf8.h"

namespace internvl {
namespace {

constexpr std::string_view kSpaceMark = "\u2581";

// Words up to so many symbols are merged by looking at all pairs for the best one.
constexpr std::size_t kShort = 40;
// Words up to so many bytes are kept for the next time, in so many slots and bytes.
constexpr std::size_t kKnownWord = 48;
constexpr std::size_t kKnownSlots = 8192;
constexpr std::size_t kKnownBytes = 1 << 20;

constexpr std::uint32_t kNoRank = std::numeric_limits<std::uint32_t>::max();

std::uint64_t key(std::int32_t first, std::int32_t second) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(first)) << 32 |
         static_cast<std::uint32_t>(second);
}

std::uint64_t mixed(std::uint64_t value) {
  value *= 0x9E3779B97F4A7C15U;
  return value ^ value >> 32;
}

[[noreturn]] void fail(const std::string& what) { throw BundleError("is not a tokenizer (" + what + ")."); }

bool flag(const json::Value& document, std::string_view name) {
  const auto value = document.find(name);
  if (!value || value->is_null()) return false;
  const auto found = value->boolean();
  if (!found) fail("model." + std::string(name) + " is neither true nor false");
  return *found;
}

// Fields of BPE that the family does not use, and that would change what a word becomes.
void check_unused(const json::Value& document) {
  for (const std::string_view name : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
    const auto value = document.find(name);
    if (!value || value->is_null() || value->string() == "" || value->number() == 0.0) continue;
    throw BundleError("the tokenizer's model has a " + std::string(name) + ", " +
                      std::string(value->text().substr(0, 40)) + ", which is not known.");
  }
}

json::Value vocabulary_of(const json::Value& document) {
  const auto type = document.find("type");
  const std::string_view kind = type && !type->is_null() ? type->text() : "BPE";
  if (kind != "BPE") {
    throw BundleError("the tokenizer's model " + std::string(kind.substr(0, 40)) + " is not known.");
  }
  const auto vocabulary = document.find("vocab");
  if (!vocabulary) fail("it has no model.vocab");
  return *vocabulary;
}

// Whether a text has a marked space behind anything but a marked space.
bool crosses_spaces(std::string_view text) {
  for (std::size_t at = text.find(kSpaceMark); at != std::string_view::npos;
       at = text.find(kSpaceMark, at + 1)) {
    if (at > 0 && !text.substr(0, at).ends_with(kSpaceMark)) return true;
  }
  return false;
}

}  // namespace

BytePairModel::BytePairModel(const json::Value& document, bool byte_level)
    : byte_level_(byte_level), vocabulary_(vocabulary_of(document), byte_level) {
  check_unused(document);
  byte_fallback_ = flag(document, "byte_fallback");
  fuse_unknown_ = flag(document, "fuse_unk");
  ignore_merges_ = flag(document, "ignore_merges");
  if (byte_level && byte_fallback_) {
    throw BundleError("the tokenizer's model has byte_fallback beside ByteLevel, which is not known.");
  }
  if (const auto unknown = document.find("unk_token"); unknown && !unknown->is_null()) {
    unknown_ = vocabulary_.find_name(unknown->string().value_or(""));
    if (unknown_ < 0)
      fail("model.unk_token " + std::string(unknown->text().substr(0, 40)) + " is not in model.vocab");
  }
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  for (std::size_t byte = 0; byte < byte_ids_.size(); ++byte) {
    const char piece[] = {'<', '0', 'x', kDigits[byte / 16], kDigits[byte % 16], '>'};
    const char itself[] = {static_cast<char>(byte)};
    const std::string_view name = byte_level ? std::string_view(itself, 1) : std::string_view(piece, 6);
    byte_ids_[byte] = vocabulary_.find(name);
  }
  no_token_crosses_spaces_ = !byte_level && !ignore_merges_ && vocabulary_.find(kSpaceMark) >= 0;
  const auto merges = document.find("merges");
  if (!merges || !merges->is_array()) fail("it has no list of model.merges");
  read_merges(*merges);
}

void BytePairModel::read_merges(const json::Value& document) {
  pairs_.resize(std::bit_ceil(2 * document.size() + 2));
  std::uint32_t rank = 0;
  document.each_item([&](const json::Value& merge) {
    std::array<std::string_view, 2> parts;
    std::size_t count = 0;
    if (const auto line = merge.string()) {
      const std::size_t space = line->find(' ');
      if (space != std::string_view::npos && line->find(' ', space + 1) == std::string_view::npos) {
        parts = {line->substr(0, space), line->substr(space + 1)};
        count = 2;
      }
    }
    merge.each_item([&](const json::Value& part) {
      if (part.string() && count < 2) parts[count] = *part.string();
      count += part.string() ? 1 : 3;
    });
    if (count != 2) fail("model.merges[" + std::to_string(rank) + "] is not a pair of tokens");
    add_merge(parts[0], parts[1], rank++);
  });
}

void BytePairModel::add_merge(std::string_view first, std::string_view second, std::uint32_t rank) {
  const std::string both = std::string(first) + std::string(second);
  const std::int32_t left = vocabulary_.find_name(first);
  const std::int32_t right = vocabulary_.find_name(second);
  const std::int32_t made = vocabulary_.find_name(both);
  if (left < 0 || right < 0 || made < 0) {
    fail("model.merges[" + std::to_string(rank) + "] has a token that model.vocab lacks: '" +
         std::string(first) + "' and '" + std::string(second) + "' make '" + both + "'");
  }
  no_token_crosses_spaces_ = no_token_crosses_spaces_ && !crosses_spaces(both);
  const std::size_t mask = pairs_.size() - 1;
  std::size_t slot = mixed(key(left, right)) & mask;
  while (pairs_[slot].ids != kFree && pairs_[slot].ids != key(left, right)) slot = (slot + 1) & mask;
  pairs_[slot] = {key(left, right), rank, made};  // of a pair that is there twice, the last rank counts
}

const BytePairModel::Pair* BytePairModel::find(std::int32_t first, std::int32_t second,
                                               BytePairScratch& scratch) const {
  ++scratch.lookups_;
  const std::size_t mask = pairs_.size() - 1;
  const std::uint64_t wanted = key(first, second);
  for (std::size_t slot = mixed(wanted) & mask; pairs_[slot].ids != kFree; slot = (slot + 1) & mask) {
    if (pairs_[slot].ids == wanted) return &pairs_[slot];
  }
  return nullptr;
}

void BytePairModel::encode(std::string_view word, BytePairScratch& scratch,
                           std::vector<std::int64_t>& ids) const {
  if (ignore_merges_) {
    if (const std::int32_t whole = vocabulary_.find(word); whole >= 0) {
      ids.push_back(whole);
      return;
    }
  }
  if (!no_token_crosses_spaces_) return encode_part(word, scratch, ids);
  // SentencePiece's words are whole texts. Cut where nothing merges, they are short, and often the same.
  std::size_t begin = 0;
  for (std::size_t at = word.find(kSpaceMark, 1); at != std::string_view::npos;
       at = word.find(kSpaceMark, at + 1)) {
    if (word.substr(0, at).ends_with(kSpaceMark)) continue;
    encode_part(word.substr(begin, at - begin), scratch, ids);
    begin = at;
  }
  encode_part(word.substr(begin), scratch, ids);
}

void BytePairModel::encode_part(std::string_view part, BytePairScratch& scratch,
                                std::vector<std::int64_t>& ids) const {
  const bool keep = part.size() <= kKnownWord;
  if (keep && scratch.known_.empty()) scratch.known_.resize(kKnownSlots);
  const std::size_t slot = keep ? std::hash<std::string_view>{}(part) % kKnownSlots : 0;
  if (keep) {
    const BytePairScratch::Known& known = scratch.known_[slot];
    if (std::string_view(scratch.words_).substr(known.word, known.length) == part) {
      const auto begin = scratch.ids_.begin() + known.ids;
      ids.insert(ids.end(), begin, begin + known.count);
      return;
    }
  }
  auto& symbols = scratch.symbols_;
  symbols.clear();
  split(part, symbols);
  if (symbols.size() <= kShort) {
    merge_short(scratch);
  } else {
    merge_long(scratch);
  }
  const std::size_t first = ids.size();
  for (const auto& symbol : symbols) {
    if (symbol.id >= 0) ids.push_back(symbol.id);
  }
  if (!keep) return;
  if (scratch.words_.size() + scratch.ids_.size() * sizeof(std::int32_t) > kKnownBytes) {
    scratch.known_.assign(kKnownSlots, {});
    scratch.words_.clear();
    scratch.ids_.clear();
  }
  scratch.known_[slot] = {
      static_cast<std::uint32_t>(scratch.words_.size()), static_cast<std::uint32_t>(part.size()),
      static_cast<std::uint32_t>(scratch.ids_.size()), static_cast<std::uint32_t>(ids.size() - first)};
  scratch.words_ += part;
  for (std::size_t i = first; i < ids.size(); ++i) scratch.ids_.push_back(static_cast<std::int32_t>(ids[i]));
}

void BytePairModel::split(std::string_view word, std::vector<BytePairScratch::Symbol>& symbols) const {
  bool unknown = false;  // an unknown token waits for what else is unknown
  const auto add = [&](std::int32_t id) { symbols.push_back({id, 0, 0}); };
  const auto settle = [&] {
    if (unknown) add(unknown_);
    unknown = false;
  };
  for (std::size_t at = 0; at < word.size();) {
    const std::size_t length = byte_level_ ? 1 : utf8::length_of(word[at]);
    const std::string_view character = word.substr(at, length);
    at += length;
    const std::int32_t id =
        byte_level_ ? byte_ids_[static_cast<unsigned char>(character[0])] : vocabulary_.find(character);
    if (id >= 0) {
      settle();
      add(id);
      continue;
    }
    const auto byte_id = [&](char c) { return byte_ids_[static_cast<unsigned char>(c)]; };
    if (byte_fallback_ && std::ranges::all_of(character, [&](char c) { return byte_id(c) >= 0; })) {
      // As the library has it: an unknown token that waits comes behind these.
      for (const char c : character) add(byte_id(c));
      continue;
    }
    if (unknown_ < 0) continue;  // without an unknown token it is lost, as the library loses it
    if (!fuse_unknown_) settle();
    unknown = true;
  }
  settle();
}

void BytePairModel::merge_short(BytePairScratch& scratch) const {
  auto& symbols = scratch.symbols_;
  auto& ranks = scratch.ranks_;
  ranks.clear();
  const auto rank_at = [&](std::size_t i) {
    if (i + 1 >= symbols.size()) return kNoRank;
    const Pair* const pair = find(symbols[i].id, symbols[i + 1].id, scratch);
    return pair == nullptr ? kNoRank : pair->rank;
  };
  for (std::size_t i = 0; i < symbols.size(); ++i) ranks.push_back(rank_at(i));
  while (symbols.size() > 1) {
    const auto best = static_cast<std::size_t>(std::ranges::min_element(ranks) - ranks.begin());
    if (ranks[best] == kNoRank) return;
    symbols[best].id = find(symbols[best].id, symbols[best + 1].id, scratch)->id;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    ranks.erase(ranks.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    ranks[best] = rank_at(best);
    if (best > 0) ranks[best - 1] = rank_at(best - 1);
  }
}

void BytePairModel::merge_long(BytePairScratch& scratch) const {
  auto& symbols = scratch.symbols_;
  auto& queue = scratch.queue_;
  queue.clear();
  const auto count = static_cast<std::int32_t>(symbols.size());
  const auto at = [&](std::int32_t i) -> BytePairScratch::Symbol& {
    return symbols[static_cast<std::size_t>(i)];
  };
  const auto offer = [&](std::int32_t i) {
    const std::int32_t next = at(i).next;
    if (next >= count) return;
    if (const Pair* const pair = find(at(i).id, at(next).id, scratch)) {
      queue.push_back({pair->rank, i, pair->id});
      std::ranges::push_heap(queue, std::greater{});
    }
  };
  for (std::int32_t i = 0; i < count; ++i) {
    at(i).previous = i - 1;
    at(i).next = i + 1;
  }
  for (std::int32_t i = 0; i < count; ++i) offer(i);
  while (!queue.empty()) {
    std::ranges::pop_heap(queue, std::greater{});
    const BytePairScratch::Merge merge = queue.back();
    queue.pop_back();
    auto& left = at(merge.position);
    if (left.id < 0 || left.next >= count) continue;
    auto& right = at(left.next);
    const Pair* const pair = find(left.id, right.id, scratch);
    if (pair == nullptr || pair->id != merge.id) continue;  // it was offered before one of the two changed
    left.id = merge.id;
    left.next = right.next;
    right.id = -1;
    if (left.next < count) at(left.next).previous = merge.position;
    if (left.previous >= 0) offer(left.previous);
    offer(merge.position);
  }
}

}  // namespace internvl
