#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace internvl {

// A file mapped read-only into memory: nothing is copied, pages are read when they are first touched.
class MappedFile {
 public:
  // Throws BundleError if the file cannot be opened, is empty or cannot be mapped.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  MappedFile(MappedFile&&) = delete;
  MappedFile& operator=(MappedFile&&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace internvl
