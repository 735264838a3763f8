#include "runtime/weight_file.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "runtime/error.h"

namespace internvl {
namespace {

constexpr std::array<std::pair<std::string_view, DataType>, 5> type_names{{
    {"float32", DataType::float32},
    {"float16", DataType::float16},
    {"bfloat16", DataType::bfloat16},
    {"int8", DataType::int8},
    {"int4", DataType::int4},
}};

std::string text_of(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (const std::int64_t extent : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(extent);
  return text + "]";
}

}  // namespace

std::string_view name_of(DataType type) {
  for (const auto& [name, named] : type_names) {
    if (named == type) return name;
  }
  return "unknown";
}

DataType data_type_from(std::string_view name) {
  for (const auto& [known, type] : type_names) {
    if (known == name) return type;
  }
  throw BundleError("the data type '" + std::string(name) +
                    "' is not one of float32, float16, bfloat16, int8, int4. Export the bundle again.");
}

std::size_t byte_size(DataType type, std::size_t elements) {
  switch (type) {
    case DataType::float32:
      return elements * 4;
    case DataType::float16:
    case DataType::bfloat16:
      return elements * 2;
    case DataType::int8:
      return elements;
    case DataType::int4:
      return elements / 2;
  }
  return 0;
}

WeightFile::WeightFile(const std::filesystem::path& path, std::vector<TensorEntry> entries)
    : path_(path), file_(path), entries_(std::move(entries)) {
  const std::size_t file_size = file_.bytes().size();
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const TensorEntry& entry = entries_[i];
    const std::string where = path_.string() + ": tensor '" + entry.name + "'";
    if (entry.begin > entry.end || entry.end > file_size) {
      throw BundleError(where + " lies at bytes " + std::to_string(entry.begin) + " to " +
                        std::to_string(entry.end) + ", outside of the file's " + std::to_string(file_size) +
                        " bytes. The file is truncated or altered: export the bundle again.");
    }
    std::size_t elements = 1;
    for (const std::int64_t extent : entry.shape) {
      if (extent < 0 || (extent > 0 && elements > std::numeric_limits<std::size_t>::max() / 8 /
                                                      static_cast<std::size_t>(extent))) {
        throw BundleError(where + " has the impossible shape " + text_of(entry.shape) +
                          ". Export the bundle again.");
      }
      elements *= static_cast<std::size_t>(extent);
    }
    if (byte_size(entry.type, elements) != entry.end - entry.begin ||
        (entry.type == DataType::int4 && elements % 2 != 0)) {
      throw BundleError(where + " of type " + std::string(name_of(entry.type)) + " and shape " +
                        text_of(entry.shape) + " does not fill its " +
                        std::to_string(entry.end - entry.begin) +
                        " bytes. The header is altered: export the bundle again.");
    }
    if (!index_.emplace(entry.name, i).second) {
      throw BundleError(where + " stands in the header twice. Export the bundle again.");
    }
  }
}

bool WeightFile::contains(std::string_view name) const { return index_.contains(name); }

Tensor WeightFile::tensor(std::string_view name) const {
  const auto found = index_.find(name);
  if (found == index_.end()) {
    throw BundleError(path_.string() + ": there is no tensor '" + std::string(name) +
                      "', which this model needs. Export the bundle again.");
  }
  const TensorEntry& entry = entries_[found->second];
  return {entry.name, entry.type, entry.shape, file_.bytes().subspan(entry.begin, entry.end - entry.begin)};
}

Tensor WeightFile::tensor(std::string_view name, std::span<const std::int64_t> shape) const {
  const Tensor found = tensor(name);
  if (!std::equal(shape.begin(), shape.end(), found.shape.begin(), found.shape.end())) {
    throw BundleError(path_.string() + ": tensor '" + std::string(name) + "' has the shape " +
                      text_of(found.shape) + " where the model's facts ask for " + text_of(shape) +
                      ". Export the bundle again.");
  }
  return found;
}

}  // namespace internvl
