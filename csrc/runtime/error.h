// The typed exceptions of the library. A message says what was wrong, what was expected, and what to do where
// that is the same in every language. Where it is not, a code tells each language's API to say it in its
// words.
#pragma once

#include <array>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace internvl {

enum class ErrorCode {
  none,
  no_bundle,            // the folder is none
  engine_cannot,        // the native engine does not compute this model
  forked,               // the process is a fork of the one that loaded the model
  too_many_frames,      // for the context
  logits_not_a_number,  // what the weights or the activations hold
};

inline constexpr std::array<std::pair<ErrorCode, std::string_view>, 5> kErrorCodes{{
    {ErrorCode::no_bundle, "no_bundle"},
    {ErrorCode::engine_cannot, "engine_cannot"},
    {ErrorCode::forked, "forked"},
    {ErrorCode::too_many_frames, "too_many_frames"},
    {ErrorCode::logits_not_a_number, "logits_not_a_number"},
}};

class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, ErrorCode code = ErrorCode::none)
      : std::runtime_error(message), code_(code) {}

  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

// A bundle that is truncated, altered, or of another format version.
class BundleError : public Error {
 public:
  using Error::Error;
};

// A file or folder of a bundle that the operating system does not give.
class FileError : public BundleError {
 public:
  // `number` is errno's.
  FileError(std::string path, int number)
      : BundleError(path + ": cannot be read (" + std::generic_category().message(number) + ")."),
        path_(std::move(path)),
        number_(number) {}

  const std::string& path() const { return path_; }
  int error_number() const { return number_; }

 private:
  std::string path_;
  int number_;
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
