#include "runtime/mapped_file.h"

#include <sys/mman.h>

#include <cerrno>

#include "runtime/error.h"
#include "runtime/regular_file.h"

namespace internvl {

MappedFile::MappedFile(const std::filesystem::path& path) {
  const auto file = RegularFile::open(path);
  if (!file || file->size() == 0) {
    throw BundleError(path.string() +
                      ": is not there, empty or not a regular file. Copy the whole folder, or export the "
                      "bundle again.");
  }
  const auto size = static_cast<std::size_t>(file->size());
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file->descriptor(), 0);
  if (const int code = errno; address == MAP_FAILED) throw FileError(path.string(), code);
  bytes_ = {static_cast<const std::byte*>(address), size};
}

MappedFile::~MappedFile() { ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size()); }

}  // namespace internvl
