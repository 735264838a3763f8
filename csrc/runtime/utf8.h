// UTF-8: reading it where it is known to be right, and making it right.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace internvl::utf8 {

// U+FFFD.
inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

struct CodePoint {
  char32_t value;
  std::size_t length;  // in bytes
};

// Bytes of the character that begins with a byte. The text is right.
constexpr std::size_t length_of(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

// The character at a position. The text is right, and the position is at a character.
constexpr CodePoint decode(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) {
    return static_cast<char32_t>(static_cast<unsigned char>(text[at + i]));
  };
  const char32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xE0) return {(lead & 0x1F) << 6 | (byte(1) & 0x3F), 2};
  if (lead < 0xF0) return {(lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F), 3};
  return {(lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F), 4};
}

// The position of the character in front of another position. The text is right, and the position is not 0.
constexpr std::size_t before(std::string_view text, std::size_t at) {
  do {
    --at;
  } while ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
  return at;
}

void append(std::string& text, char32_t code_point);

// Characters of a text that is right.
std::size_t count(std::string_view text);

bool valid(std::string_view text);

// The beginning of a text that is right, for a message: at most so many characters, and \x1b for one that
// would steer a terminal.
std::string shown(std::string_view text, std::size_t most);

// What a stray byte becomes while characters are put together.
enum class Stray : std::uint8_t {
  per_character,  // one U+FFFD for as many bytes as begin a character (Unicode's own practice)
  per_byte,       // one U+FFFD for every byte (SentencePiece's)
};

// Puts characters together from bytes that come in pieces. Not for several threads at once.
class Decoder {
 public:
  explicit Decoder(Stray stray) : stray_(stray) {}

  // Appends the characters that are certain by now.
  void push(std::string_view bytes, std::string& out);

  // Appends what becomes of a character that was never completed.
  void finish(std::string& out);

 private:
  void give_up(std::string& out);

  Stray stray_;
  char held_[4] = {};
  std::size_t size_ = 0;    // bytes held
  std::size_t length_ = 0;  // bytes of the character that they begin
};

// A text with U+FFFD for every byte that is no UTF-8, and one for the three bytes of a lone surrogate.
std::string repaired(std::string_view bytes);

}  // namespace internvl::utf8
