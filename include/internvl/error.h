// The typed errors of the C++ API. Each message says what was wrong, what was expected, and what to do.
#pragma once

#include <internvl/c.h>

#include <stdexcept>

namespace internvl {
// A name of its own, so that a program that links the static library does not mix these classes with that
// library's.
inline namespace api0 {

/// The base of every error that the library throws on purpose. A call that throws leaves the model usable.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A bundle that is incomplete, truncated, altered, or of another format version.
class BundleError : public Error {
 public:
  using Error::Error;
};

/// A picture whose size, format or strides are not taken.
class ImageError : public Error {
 public:
  using Error::Error;
};

/// A question or an option that does not fit the model.
class PromptError : public Error {
 public:
  using Error::Error;
};

/// What this machine lacks: memory, threads, instructions.
class DeviceError : public Error {
 public:
  using Error::Error;
};

/// The KV cache has no room. Whatever is running keeps running.
class CacheFullError : public Error {
 public:
  using Error::Error;
};

/// So many requests wait for the model that it takes no further one now.
class BusyError : public Error {
 public:
  using Error::Error;
};

/// A call to a model that was closed.
class ClosedError : public Error {
 public:
  using Error::Error;
};

namespace detail {

// Throws what a status stands for.
inline void check(internvl_status status) {
  switch (status) {
    case INTERNVL_OK:
      return;
    case INTERNVL_BUNDLE_ERROR:
      throw BundleError(internvl_error_message());
    case INTERNVL_IMAGE_ERROR:
      throw ImageError(internvl_error_message());
    case INTERNVL_PROMPT_ERROR:
      throw PromptError(internvl_error_message());
    case INTERNVL_DEVICE_ERROR:
      throw DeviceError(internvl_error_message());
    case INTERNVL_CACHE_FULL_ERROR:
      throw CacheFullError(internvl_error_message());
    case INTERNVL_BUSY_ERROR:
      throw BusyError(internvl_error_message());
    case INTERNVL_CLOSED_ERROR:
      throw ClosedError(internvl_error_message());
    case INTERNVL_ERROR:
      break;
  }
  throw Error(internvl_error_message());
}

}  // namespace detail
}  // namespace api0
}  // namespace internvl
