// The typed exceptions of the library. Every message says what was wrong, what was expected, and what to do.
#pragma once

#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

namespace internvl {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A bundle that is truncated, altered, or of another format version.
class BundleError : public Error {
 public:
  using Error::Error;
};

// A file or folder of a bundle that the operating system does not give.
class FileError : public BundleError {
 public:
  // `code` is errno's.
  FileError(std::string path, int code)
      : BundleError(path + ": cannot be read (" + std::generic_category().message(code) + ")."),
        path_(std::move(path)),
        code_(code) {}

  const std::string& path() const { return path_; }
  int code() const { return code_; }

 private:
  std::string path_;
  int code_;
};

// A picture that cannot be decoded, or whose size, type or layout is not one that the runtime takes.
class ImageError : public Error {
 public:
  using Error::Error;
};

// Token ids, image features or lengths that do not fit the model or each other.
class PromptError : public Error {
 public:
  using Error::Error;
};

// A machine that lacks what was asked of it.
class DeviceError : public Error {
 public:
  using Error::Error;
};

// The KV cache has no free block left; everything that is running keeps running.
class CacheFullError : public Error {
 public:
  using Error::Error;
};

// Too many requests wait already.
class BusyError : public Error {
 public:
  using Error::Error;
};

// A call to a model that was closed.
class ClosedError : public Error {
 public:
  using Error::Error;
};

}  // namespace internvl
