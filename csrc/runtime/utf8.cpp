#include "runtime/utf8.h"

namespace internvl::utf8 {
namespace {

unsigned char byte_of(char c) { return static_cast<unsigned char>(c); }

// Bytes of the character that a byte begins, or 0 if none begins with it.
std::size_t announced(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead < 0xE0) return 2;
  if (lead >= 0xE0 && lead < 0xF0) return 3;
  if (lead >= 0xF0 && lead < 0xF5) return 4;
  return 0;
}

// Whether a byte may be the second of a character: neither overlong, nor a surrogate, nor beyond U+10FFFF.
bool continues_second(unsigned char lead, unsigned char byte) {
  switch (lead) {
    case 0xE0:
      return byte >= 0xA0 && byte < 0xC0;
    case 0xED:
      return byte >= 0x80 && byte < 0xA0;
    case 0xF0:
      return byte >= 0x90 && byte < 0xC0;
    case 0xF4:
      return byte >= 0x80 && byte < 0x90;
    default:
      return byte >= 0x80 && byte < 0xC0;
  }
}

// Bytes of the right character at a position, or 0.
std::size_t right_at(std::string_view text, std::size_t at) {
  const unsigned char lead = byte_of(text[at]);
  const std::size_t length = announced(lead);
  if (length == 0 || at + length > text.size()) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    const unsigned char byte = byte_of(text[at + i]);
    if (i == 1 ? !continues_second(lead, byte) : (byte & 0xC0) != 0x80) return 0;
  }
  return length;
}

}  // namespace

void append(std::string& text, char32_t code_point) {
  const auto put = [&](char32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | code_point >> 12);
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | code_point >> 18);
    put(0x80 | (code_point >> 12 & 0x3F));
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

std::size_t count(std::string_view text) {
  std::size_t characters = 0;
  for (const char c : text) characters += (byte_of(c) & 0xC0) != 0x80;
  return characters;
}

bool valid(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    if (byte_of(text[at]) < 0x80) {
      ++at;
      continue;
    }
    const std::size_t length = right_at(text, at);
    if (length == 0) return false;
    at += length;
  }
  return true;
}

std::string shown(std::string_view text, std::size_t most) {
  static constexpr std::string_view kDigits = "0123456789abcdef";
  std::string out;
  for (std::size_t at = 0; at < text.size() && most > 0; --most) {
    const CodePoint c = decode(text, at);
    if (c.value < 0x20 || (c.value >= 0x7F && c.value < 0xA0)) {
      out += {'\\', 'x', kDigits[c.value >> 4], kDigits[c.value & 15]};
    } else {
      out += text.substr(at, c.length);
    }
    at += c.length;
  }
  return out;
}

void Decoder::give_up(std::string& out) {
  const std::size_t marks = stray_ == Stray::per_byte ? size_ : 1;
  for (std::size_t i = 0; i < marks; ++i) out += kReplacement;
  size_ = 0;
}

void Decoder::push(std::string_view bytes, std::string& out) {
  for (const char c : bytes) {
    const unsigned char byte = byte_of(c);
    if (size_ > 0) {
      const bool fits = size_ == 1 ? continues_second(byte_of(held_[0]), byte) : (byte & 0xC0) == 0x80;
      if (fits) {
        held_[size_++] = c;
        if (size_ == length_) {
          out.append(held_, size_);
          size_ = 0;
        }
        continue;
      }
      give_up(out);
    }
    length_ = announced(byte);
    if (length_ == 1) {
      out.push_back(c);
    } else if (length_ == 0) {
      out += kReplacement;
    } else {
      held_[0] = c;
      size_ = 1;
    }
  }
}

void Decoder::finish(std::string& out) {
  if (size_ > 0) give_up(out);
}

std::string repaired(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  for (std::size_t at = 0; at < bytes.size();) {
    if (const std::size_t length = right_at(bytes, at); length > 0) {
      text += bytes.substr(at, length);
      at += length;
      continue;
    }
    const bool surrogate = byte_of(bytes[at]) == 0xED && at + 2 < bytes.size() &&
                           (byte_of(bytes[at + 1]) & 0xE0) == 0xA0 && (byte_of(bytes[at + 2]) & 0xC0) == 0x80;
    text += kReplacement;
    at += surrogate ? 3 : 1;
  }
  return text;
}

}  // namespace internvl::utf8
