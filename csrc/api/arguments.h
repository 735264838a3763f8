// What calls are given by pointers: structures that say how large they are, and texts.
#pragma once

#include <internvl/c.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "runtime/error.h"

namespace internvl::api {

// Throws Error about a structure of so many bytes.
[[noreturn]] void throw_newer(const char* name, std::size_t size);

// Throws Error if it is null.
template <class Type>
void require_pointer(Type* given, const char* name) {
  if (given == nullptr) throw Error(std::string(name) + " is NULL.");
}

// What the caller gave, in a structure of today's size; the rest is as `whole` has it.
template <class Struct>
Struct taken(const Struct* given, const char* name, Struct whole) {
  if (given == nullptr) return whole;
  if (given->size < sizeof(std::size_t) || given->size > sizeof(Struct)) throw_newer(name, given->size);
  std::memcpy(&whole, given, given->size);
  return whole;
}

// Writes as much as the caller's structure has, and leaves its size as it is.
template <class Struct>
void give(const Struct& whole, Struct* out, const char* name) {
  require_pointer(out, name);
  const std::size_t size = out->size;
  if (size < sizeof(std::size_t) || size > sizeof(Struct)) throw_newer(name, size);
  std::memcpy(out, &whole, size);
  out->size = size;
}

// Both repair what is not UTF-8.
std::string text_of(const char* text, std::size_t length, const char* name);
std::string text_of(const char* text, const char* name);

std::vector<std::string> texts_of(const char* const* texts, std::size_t count, const char* name);

// Of a number that is not given where it is 0.
inline std::optional<std::int64_t> unless_zero(std::int64_t number) {
  return number == 0 ? std::nullopt : std::optional(number);
}

}  // namespace internvl::api
