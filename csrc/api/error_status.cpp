#include "api/error_status.h"

#include <new>
#include <string>
#include <string_view>

#include "runtime/error.h"

namespace internvl::api {
namespace {

thread_local std::string last_message;

std::string_view advice_for(ErrorCode code) {
  switch (code) {
    case ErrorCode::no_bundle:
      return " The command `internvl-rt export CHECKPOINT OUT` of the Python package makes one.";
    case ErrorCode::logits_not_a_number:
      return " Load the model with verify, which checks its files; if they are whole, export it with bf16 or "
             "fp32, which hold larger numbers than fp16.";
    case ErrorCode::engine_cannot:
    case ErrorCode::forked:
    case ErrorCode::too_many_frames:
    case ErrorCode::none:
      break;
  }
  return "";
}

internvl_status keep(internvl_status status, std::string_view message, std::string_view advice = {}) {
  last_message = message;
  last_message += advice;
  return status;
}

internvl_status keep(internvl_status status, const Error& error) {
  return keep(status, error.what(), advice_for(error.code()));
}

internvl_status status_of(const std::exception_ptr& thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (const BundleError& error) {
    return keep(INTERNVL_BUNDLE_ERROR, error);
  } catch (const ImageError& error) {
    return keep(INTERNVL_IMAGE_ERROR, error);
  } catch (const PromptError& error) {
    return keep(INTERNVL_PROMPT_ERROR, error);
  } catch (const DeviceError& error) {
    return keep(INTERNVL_DEVICE_ERROR, error);
  } catch (const CacheFullError& error) {
    return keep(INTERNVL_CACHE_FULL_ERROR, error);
  } catch (const BusyError& error) {
    return keep(INTERNVL_BUSY_ERROR, error);
  } catch (const ClosedError& error) {
    return keep(INTERNVL_CLOSED_ERROR, error);
  } catch (const Error& error) {
    return keep(INTERNVL_ERROR, error);
  } catch (const std::bad_alloc&) {
    return keep(INTERNVL_DEVICE_ERROR, "there is not enough memory. Close other programs, or ask for less.");
  } catch (const std::exception& error) {
    return keep(INTERNVL_ERROR, error.what());
  } catch (...) {
    return keep(INTERNVL_ERROR, "something that is no exception of C++'s library was thrown.");
  }
}

}  // namespace

const char* last_error_message() noexcept { return last_message.c_str(); }

internvl_status failed(const std::exception_ptr& thrown) noexcept {
  try {
    return status_of(thrown);
  } catch (...) {  // there is no memory for the message
    last_message.clear();
    return INTERNVL_DEVICE_ERROR;
  }
}

}  // namespace internvl::api
