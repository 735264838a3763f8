// The safetensors container: its header is bounded, parsed and checked before anything is mapped.
//
// A file is eight bytes of header length (little endian), a JSON header that gives every tensor's type, shape
// and byte range, and the data. What is checked here is what makes the ranges safe to use: they lie inside
// the file, belong to one tensor each, leave no hole, and are as long as type and shape say. See
// https://github.com/huggingface/safetensors for the format.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/error.h"

namespace internvl {

// A header that cannot be trusted. The message names the tensor, not the file, and has no full stop.
class HeaderError : public BundleError {
 public:
  using BundleError::BundleError;
};

// `begin` and `end` are byte offsets from the start of the file.
struct HeaderEntry {
  std::string name;
  std::string type;  // F32, BF16, ...
  std::vector<std::int64_t> shape;
  std::uint64_t begin;
  std::uint64_t end;
};

// Of the text of a header whose data begins at `data_begin`, in the order of the text. Throws HeaderError if
// it is not JSON, has a name twice or a malformed entry, or the tensors do not fill the file from there on
// exactly, each byte belonging to one tensor.
std::vector<HeaderEntry> parse_safetensors_header(std::string json, std::uint64_t data_begin,
                                                  std::uint64_t file_size);

// Of a file. Throws HeaderError, for one that is truncated or too long too; FileError if the system does not
// give the file.
std::vector<HeaderEntry> read_safetensors_header(const std::filesystem::path& path);

}  // namespace internvl
