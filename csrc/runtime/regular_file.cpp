#include "runtime/regular_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "runtime/error.h"

namespace internvl {
namespace {

[[noreturn]] void refuse(const std::filesystem::path& path) {
  const int code = errno;
  throw FileError(path.string(), code);
}

}  // namespace

std::filesystem::file_type type_of_file(const std::filesystem::path& path) {
  std::error_code error;
  const std::filesystem::file_type type = std::filesystem::status(path, error).type();
  if (type == std::filesystem::file_type::none) throw FileError(path.string(), error.value());
  return type;
}

std::optional<RegularFile> RegularFile::open(const std::filesystem::path& path) {
  // Looked at before it is opened: opening alone can start a device, or wait for a pipe's other end.
  if (type_of_file(path) != std::filesystem::file_type::regular) return std::nullopt;
  RegularFile file(path, ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat status{};
  if (file.descriptor_ < 0 || ::fstat(file.descriptor_, &status) != 0) refuse(path);
  if (!S_ISREG(status.st_mode)) return std::nullopt;  // another file stands there by now
  file.size_ = static_cast<std::uint64_t>(status.st_size);
  return file;
}

RegularFile::RegularFile(std::filesystem::path path, int descriptor)
    : path_(std::move(path)), descriptor_(descriptor) {}

RegularFile::RegularFile(RegularFile&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)), size_(other.size_) {}

RegularFile::~RegularFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

std::size_t RegularFile::read(std::uint64_t position, std::span<std::byte> out) const {
  std::size_t done = 0;
  while (done < out.size()) {
    const ::ssize_t got =
        ::pread(descriptor_, out.data() + done, out.size() - done, static_cast<::off_t>(position + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) refuse(path_);
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  return done;
}

std::string RegularFile::read(std::uint64_t position, std::size_t size) const {
  std::string text(size, '\0');
  text.resize(read(position, std::as_writable_bytes(std::span(text))));
  return text;
}

}  // namespace internvl
