#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace internvl {

// A file mapped read-only into memory: nothing is copied, pages are read when they are first touched.
class MappedFile {
 public:
  // Throws BundleError if it is not there, empty or not a regular file; FileError if the system does not open
  // or map it.
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
