// Exceptions as the C ABI has them: a status, and a message for each thread.
#pragma once

#include <internvl/c.h>

#include <exception>

namespace internvl::api {

// Of the last call in this thread that failed; empty before.
const char* last_error_message() noexcept;

// Keeps the message of an exception, with what to do about it in C, and gives its status.
internvl_status failed(const std::exception_ptr& thrown) noexcept;

// Runs a call, and turns what it throws into a status.
template <class Call>
internvl_status guarded(Call call) noexcept {
  try {
    call();
    return INTERNVL_OK;
  } catch (...) {
    return failed(std::current_exception());
  }
}

}  // namespace internvl::api
