#include "prompt/byte_alphabet.h"

#include <array>
#include <cstddef>

#include "runtime/utf8.h"

namespace internvl::byte_alphabet {
namespace {

constexpr bool printable(char32_t byte) {
  return (byte >= 0x21 && byte < 0x7F) || (byte >= 0xA1 && byte < 0xAD) || (byte >= 0xAE && byte < 0x100);
}

constexpr char32_t kOthers = 0x100;

constexpr std::array<char32_t, 256> kCharacters = [] {
  std::array<char32_t, 256> characters = {};
  char32_t next = kOthers;
  for (char32_t byte = 0; byte < 256; ++byte) characters[byte] = printable(byte) ? byte : next++;
  return characters;
}();

// The byte of each character, or -1.
constexpr std::array<std::int16_t, 0x200> kBytes = [] {
  std::array<std::int16_t, 0x200> bytes = {};
  bytes.fill(-1);
  for (std::int16_t byte = 0; byte < 256; ++byte) bytes[kCharacters[static_cast<std::size_t>(byte)]] = byte;
  return bytes;
}();

}  // namespace

char32_t character_of(std::uint8_t byte) { return kCharacters[byte]; }

std::optional<std::string> bytes_of(std::string_view token) {
  std::string bytes;
  for (std::size_t at = 0; at < token.size();) {
    const auto [c, length] = utf8::decode(token, at);
    if (c >= kBytes.size() || kBytes[c] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(kBytes[c]));
    at += length;
  }
  return bytes;
}

}  // namespace internvl::byte_alphabet
