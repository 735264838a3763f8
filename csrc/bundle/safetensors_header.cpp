#include "bundle/safetensors_header.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>
#include <optional>
#include <string_view>
#include <tuple>
#include <utility>

#include "runtime/json.h"
#include "runtime/regular_file.h"
#include "runtime/utf8.h"

namespace internvl {
namespace {

// Headers of real files are at most a few hundred KB.
constexpr std::uint64_t kMaxHeaderBytes = std::uint64_t{16} << 20;
constexpr std::size_t kMaxDimensions = 8;
constexpr std::int64_t kMaxExtent = std::int64_t{1} << 48;
constexpr std::size_t kShownName = 200;
constexpr std::size_t kShownValue = 100;

struct TypeBytes {
  std::string_view name;
  std::uint64_t bytes;
};

constexpr std::array<TypeBytes, 15> kTypes = {{{"F64", 8},
                                               {"F32", 4},
                                               {"F16", 2},
                                               {"BF16", 2},
                                               {"I64", 8},
                                               {"I32", 4},
                                               {"I16", 2},
                                               {"I8", 1},
                                               {"U64", 8},
                                               {"U32", 4},
                                               {"U16", 2},
                                               {"U8", 1},
                                               {"BOOL", 1},
                                               {"F8_E4M3", 1},
                                               {"F8_E5M2", 1}}};

std::string named(std::string_view tensor) { return "tensor '" + utf8::shown(tensor, kShownName) + "'"; }

// Every item as an integer from 0 to `most`; none if the value is anything else.
std::optional<std::vector<std::int64_t>> integers_of(const std::optional<json::Value>& list,
                                                     std::int64_t most) {
  if (!list || !list->is_array()) return std::nullopt;
  std::vector<std::int64_t> found;
  list->each_item([&](const json::Value& item) {
    const auto integer = item.integer();
    if (integer && *integer >= 0 && *integer <= most) found.push_back(*integer);
  });
  return found.size() == list->size() ? std::optional(std::move(found)) : std::nullopt;
}

std::string text_of(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t extent : shape) text += (text.empty() ? "" : ", ") + std::to_string(extent);
  return "[" + text + "]";
}

// None if it is more than can be counted.
std::optional<std::uint64_t> bytes_of(const std::vector<std::int64_t>& shape, std::uint64_t element) {
  if (std::ranges::find(shape, 0) != shape.end()) return 0;
  std::uint64_t bytes = element;
  for (const std::int64_t extent : shape) {
    const auto count = static_cast<std::uint64_t>(extent);
    if (bytes > std::numeric_limits<std::uint64_t>::max() / count) return std::nullopt;
    bytes *= count;
  }
  return bytes;
}

HeaderEntry entry_of(std::string_view name, const json::Value& value, std::uint64_t data_begin) {
  const auto type = value.find("dtype");
  const auto shape = value.find("shape");
  const auto offsets = value.find("data_offsets");
  if (!type || !shape || !offsets || value.size() != 3) {
    throw HeaderError(named(name) + " has a header entry that is not of dtype, shape and data_offsets");
  }
  const auto written = type->string();
  const auto known = written ? std::ranges::find(kTypes, *written, &TypeBytes::name) : kTypes.end();
  if (known == kTypes.end()) {
    throw HeaderError(named(name) + " is of the unknown type '" + utf8::shown(type->text(), kShownValue) +
                      "'");
  }
  auto extents = integers_of(shape, kMaxExtent);
  if (!extents || extents->size() > kMaxDimensions) {
    throw HeaderError(named(name) + " has the impossible shape " + utf8::shown(shape->text(), kShownValue));
  }
  const auto range = integers_of(offsets, std::numeric_limits<std::int64_t>::max());
  if (!range || range->size() != 2 || range->front() > range->back()) {
    throw HeaderError(named(name) + " has the impossible data_offsets " +
                      utf8::shown(offsets->text(), kShownValue));
  }
  const auto begin = static_cast<std::uint64_t>(range->front());
  const auto end = static_cast<std::uint64_t>(range->back());
  const auto needed = bytes_of(*extents, known->bytes);
  if (needed != end - begin) {
    throw HeaderError(named(name) + " has " + std::to_string(end - begin) + " bytes where " +
                      std::string(known->name) + " " + text_of(*extents) + " needs " +
                      (needed ? std::to_string(*needed) : "more than any file has"));
  }
  return {std::string(name), std::string(known->name), std::move(*extents), data_begin + begin,
          data_begin + end};
}

void check_layout(const std::vector<HeaderEntry>& entries, std::uint64_t data_begin,
                  std::uint64_t file_size) {
  std::vector<const HeaderEntry*> ordered;
  ordered.reserve(entries.size());
  for (const HeaderEntry& entry : entries) ordered.push_back(&entry);
  std::ranges::sort(ordered, {}, [](const HeaderEntry* e) { return std::tuple(e->begin, e->end); });
  std::uint64_t position = data_begin;
  std::string before = "the header";
  for (const HeaderEntry* entry : ordered) {
    if (entry->begin != position) {
      throw HeaderError(named(entry->name) + " at bytes " + std::to_string(entry->begin) + " to " +
                        std::to_string(entry->end) +
                        (entry->begin < position ? " overlaps " : " leaves a hole after ") + before);
    }
    position = entry->end;
    before = named(entry->name);
  }
  if (position != file_size) {
    throw HeaderError("its tensors end at byte " + std::to_string(position) + " of a file of " +
                      std::to_string(file_size) + " bytes: the file is truncated or altered");
  }
}

void check_names(const json::Value& object, const std::string& what) {
  if (const auto repeated = object.repeated_name()) {
    throw HeaderError(what + " has the key '" + utf8::shown(*repeated, kShownName) + "' twice");
  }
}

void check_metadata(const json::Value& metadata) {
  bool strings = metadata.is_object();
  metadata.each_member(
      [&](std::string_view, const json::Value& value) { strings &= value.string().has_value(); });
  if (!strings) throw HeaderError("its __metadata__ is not an object of strings");
  check_names(metadata, "its __metadata__");
}

std::vector<HeaderEntry> entries_of(const json::Value& root, std::uint64_t data_begin) {
  constexpr std::string_view kMetadata = "__metadata__";
  if (!root.is_object()) throw HeaderError("its header is not a JSON object");
  check_names(root, "its header");
  std::vector<HeaderEntry> entries;
  root.each_member([&](std::string_view name, const json::Value& value) {
    if (name == kMetadata) {
      check_metadata(value);
    } else {
      entries.push_back(entry_of(name, value, data_begin));
    }
  });
  return entries;
}

}  // namespace

std::vector<HeaderEntry> parse_safetensors_header(std::string json, std::uint64_t data_begin,
                                                  std::uint64_t file_size) {
  try {
    const json::Document document(std::move(json));
    std::vector<HeaderEntry> entries = entries_of(document.root(), data_begin);
    check_layout(entries, data_begin, file_size);
    return entries;
  } catch (const json::SyntaxError& error) {
    throw HeaderError("its header is not JSON: " + error.detail());
  }
}

std::vector<HeaderEntry> read_safetensors_header(const std::filesystem::path& path) {
  const auto file = RegularFile::open(path);
  if (!file) throw FileError(path.string(), ENOENT);
  constexpr std::size_t kPrefix = 8;
  const std::string prefix = file->read(0, kPrefix);
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < prefix.size(); ++i) {
    length |= std::uint64_t{static_cast<unsigned char>(prefix[i])} << 8 * i;
  }
  const std::string claim = "its header claims " + std::to_string(length) + " bytes";
  if (prefix.size() < kPrefix || length > file->size() - kPrefix) {
    throw HeaderError(claim + " of a file of " + std::to_string(file->size()) +
                      ": the file is truncated or altered");
  }
  if (length > kMaxHeaderBytes) {
    throw HeaderError(claim + ", more than the limit of " + std::to_string(kMaxHeaderBytes) +
                      ": the file is altered");
  }
  std::string text = file->read(kPrefix, static_cast<std::size_t>(length));
  return parse_safetensors_header(std::move(text), kPrefix + length, file->size());
}

}  // namespace internvl
