#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>

namespace internvl {

// What a path leads to, links followed; not_found where nothing is there. Throws FileError if the system does
// not tell.
std::filesystem::file_type type_of_file(const std::filesystem::path& path);

// A file that is open for reading. Pipes and devices, which may never end or never begin, are not opened.
class RegularFile {
 public:
  // None if there is no regular file of that name. Throws FileError if the system does not open it.
  static std::optional<RegularFile> open(const std::filesystem::path& path);
  ~RegularFile();
  RegularFile(RegularFile&& other) noexcept;
  RegularFile(const RegularFile&) = delete;
  RegularFile& operator=(const RegularFile&) = delete;
  RegularFile& operator=(RegularFile&&) = delete;

  const std::filesystem::path& path() const { return path_; }
  int descriptor() const { return descriptor_; }
  // In bytes, when it was opened.
  std::uint64_t size() const { return size_; }

  // Reads from a position until `out` is full or the file ends, and returns the bytes that it read.
  // Throws FileError.
  std::size_t read(std::uint64_t position, std::span<std::byte> out) const;
  // The same as text.
  std::string read(std::uint64_t position, std::size_t size) const;

 private:
  RegularFile(std::filesystem::path path, int descriptor);

  std::filesystem::path path_;
  int descriptor_;
  std::uint64_t size_ = 0;
};

}  // namespace internvl
