// The weights of a bundle, memory-mapped: tensors are views into the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/data_type.h"
#include "runtime/mapped_file.h"

namespace internvl {

std::string_view name_of(DataType type);
// Throws BundleError for a name that is not one of the above.
DataType data_type_from(std::string_view name);
// Bytes of `elements` elements; the count of int4 elements is even.
std::size_t byte_size(DataType type, std::size_t elements);

// The tensor that holds the scales of an int8 or int4 one has its name, and this behind it.
inline constexpr std::string_view kScalesSuffix = ".scales";
inline std::string name_of_scales(std::string_view tensor) {
  return std::string(tensor) + std::string(kScalesSuffix);
}

// A tensor as the bundle's header describes it. `begin` and `end` are byte offsets from the start of the
// file.
struct TensorEntry {
  std::string name;
  DataType type;
  std::vector<std::int64_t> shape;  // in elements
  std::uint64_t begin;
  std::uint64_t end;
};

// A view of one tensor; valid as long as its WeightFile.
struct Tensor {
  std::string_view name;
  DataType type{};
  std::span<const std::int64_t> shape;
  std::span<const std::byte> bytes;

  template <class T>
  std::span<const T> as() const {
    return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
  }
};

class WeightFile {
 public:
  // Throws BundleError if the file cannot be mapped, an entry lies outside of it, or its length does not
  // follow from its type and shape.
  WeightFile(const std::filesystem::path& path, std::vector<TensorEntry> entries);

  bool contains(std::string_view name) const;
  // Throws BundleError if there is no tensor of that name.
  Tensor tensor(std::string_view name) const;
  // As above, and throws BundleError if the shape is another one.
  Tensor tensor(std::string_view name, std::span<const std::int64_t> shape) const;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  MappedFile file_;
  std::vector<TensorEntry> entries_;
  std::unordered_map<std::string_view, std::size_t> index_;  // keys point into entries_
};

}  // namespace internvl
