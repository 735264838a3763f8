#include "prompt/unicode.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "prompt/unicode_tables.h"
#include "runtime/utf8.h"

namespace internvl::unicode {
namespace {

constexpr char32_t kCodePoints = 0x110000;
constexpr std::size_t kBlock = 256;
constexpr std::uint8_t kUnstable = 128;

constexpr char32_t kHangul = 0xAC00;
constexpr char32_t kLeading = 0x1100;
constexpr char32_t kVowel = 0x1161;
constexpr char32_t kTrailing = 0x11A7;  // one before the first
constexpr char32_t kLeadings = 19;
constexpr char32_t kVowels = 21;
constexpr char32_t kTrailings = 28;
constexpr char32_t kSyllables = kLeadings * kVowels * kTrailings;

std::uint8_t combining_class(char32_t code_point) {
  const auto all = combining_classes();
  const auto found = std::ranges::lower_bound(all, code_point, {}, &CombiningClass::code_point);
  return found != all.end() && found->code_point == code_point ? found->order : 0;
}

void decompose(char32_t c, std::u32string& out) {
  if (c >= kHangul && c < kHangul + kSyllables) {
    const char32_t index = c - kHangul;
    out.push_back(kLeading + index / (kVowels * kTrailings));
    out.push_back(kVowel + index % (kVowels * kTrailings) / kTrailings);
    if (index % kTrailings != 0) out.push_back(kTrailing + index % kTrailings);
    return;
  }
  const auto all = decompositions();
  const auto found = std::ranges::lower_bound(all, c, {}, &Decomposition::code_point);
  if (found == all.end() || found->code_point != c) {
    out.push_back(c);
    return;
  }
  for (const char32_t part : decomposed().subspan(found->offset, found->length)) out.push_back(part);
}

// What two code points compose to, or 0.
char32_t compose(char32_t first, char32_t second) {
  if (first >= kLeading && first < kLeading + kLeadings && second >= kVowel && second < kVowel + kVowels) {
    return kHangul + ((first - kLeading) * kVowels + (second - kVowel)) * kTrailings;
  }
  if (first >= kHangul && first < kHangul + kSyllables && (first - kHangul) % kTrailings == 0 &&
      second > kTrailing && second < kTrailing + kTrailings) {
    return first + (second - kTrailing);
  }
  const auto all = compositions();
  const auto found = std::ranges::lower_bound(
      all, std::pair(first, second), {}, [](const Composition& c) { return std::pair(c.first, c.second); });
  return found != all.end() && found->first == first && found->second == second ? found->composed : 0;
}

// Marks behind a starter in the order of their classes, then whatever composes composed.
void compose_run(std::u32string& run, std::string& out) {
  std::vector<std::uint8_t> orders(run.size());
  std::ranges::transform(run, orders.begin(), combining_class);
  for (std::size_t begin = 0; begin < run.size();) {
    std::size_t end = begin;
    while (end < run.size() && orders[end] != 0) ++end;
    if (end > begin + 1) {
      std::vector<std::pair<std::uint8_t, char32_t>> marks;
      for (std::size_t i = begin; i < end; ++i) marks.emplace_back(orders[i], run[i]);
      std::ranges::stable_sort(marks, {}, &std::pair<std::uint8_t, char32_t>::first);
      for (std::size_t i = begin; i < end; ++i) std::tie(orders[i], run[i]) = marks[i - begin];
    }
    begin = std::max(end, begin + 1);
  }
  std::size_t kept = 0;
  std::size_t starter = run.size();  // none yet
  std::uint8_t last = 0;             // class of the last one kept behind the starter
  for (std::size_t i = 0; i < run.size(); ++i) {
    const bool adjacent = starter < run.size() && starter + 1 == kept;
    if (starter < run.size() && (adjacent || (last != 0 && last < orders[i]))) {
      if (const char32_t both = compose(run[starter], run[i]); both != 0) {
        run[starter] = both;
        continue;
      }
    }
    run[kept] = run[i];
    if (orders[i] == 0) starter = kept;
    last = orders[i];
    ++kept;
  }
  run.resize(kept);
  for (const char32_t c : run) utf8::append(out, c);
  run.clear();
}

// What NFC may change, or join to what is in front of it; everything else ends a run.
std::unordered_set<char32_t> unstable_code_points() {
  std::unordered_set<char32_t> unstable;
  for (const CombiningClass& mark : combining_classes()) unstable.insert(mark.code_point);
  for (const Composition& pair : compositions()) unstable.insert(pair.second);
  for (char32_t i = 0; i < kVowels; ++i) unstable.insert(kVowel + i);
  for (char32_t i = 1; i < kTrailings; ++i) unstable.insert(kTrailing + i);
  for (const Decomposition& entry : decompositions()) {
    std::u32string run;
    decompose(entry.code_point, run);
    std::string itself;
    std::string normal;
    utf8::append(itself, entry.code_point);
    const bool joins = unstable.contains(run.front());
    compose_run(run, normal);
    if (joins || normal != itself) unstable.insert(entry.code_point);
  }
  return unstable;
}

// Code points in blocks, equal blocks once.
class ClassTable {
 public:
  ClassTable() {
    const std::unordered_set<char32_t> unstable = unstable_code_points();
    std::unordered_map<std::string, std::uint16_t> known;
    const auto changes = class_changes();
    auto next = changes.begin();
    char now = 0;
    for (std::size_t block = 0; block < block_of_.size(); ++block) {
      std::string content;
      for (std::size_t i = 0; i < kBlock; ++i) {
        if (next != changes.end() && next->first == block * kBlock + i) {
          now = static_cast<char>(next->classes);
          ++next;
        }
        content.push_back(unstable.contains(static_cast<char32_t>(block * kBlock + i))
                              ? static_cast<char>(now | kUnstable)
                              : now);
      }
      const auto [found, added] = known.try_emplace(content, static_cast<std::uint16_t>(known.size()));
      if (added) classes_.insert(classes_.end(), content.begin(), content.end());
      block_of_[block] = found->second;
    }
  }

  std::uint8_t operator[](char32_t code_point) const {
    return classes_[block_of_[code_point / kBlock] * kBlock + code_point % kBlock];
  }

 private:
  std::array<std::uint16_t, kCodePoints / kBlock> block_of_ = {};
  std::vector<std::uint8_t> classes_;
};

const ClassTable& class_table() {
  static const ClassTable table;
  return table;
}

}  // namespace

std::uint8_t classes(char32_t code_point) { return class_table()[code_point]; }

std::string composed(std::string_view text) {
  const ClassTable& table = class_table();
  std::string out;
  out.reserve(text.size());
  std::u32string run;
  std::size_t before = 0;  // the last character that stands for itself
  std::size_t copied = 0;
  for (std::size_t at = 0; at < text.size();) {
    auto [c, length] = utf8::decode(text, at);
    if ((table[c] & kUnstable) == 0) {
      before = at;
      at += length;
      continue;
    }
    if (before < copied) before = at;
    out += text.substr(copied, before - copied);
    if (before < at) decompose(utf8::decode(text, before).value, run);
    while ((table[c] & kUnstable) != 0) {
      decompose(c, run);
      at += length;
      if (at == text.size()) break;
      std::tie(c, length) = std::tuple(utf8::decode(text, at).value, utf8::decode(text, at).length);
    }
    compose_run(run, out);
    copied = at;
    before = at;
  }
  out += text.substr(copied);
  return out;
}

}  // namespace internvl::unicode
