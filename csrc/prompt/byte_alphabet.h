// How byte-level vocabularies (GPT-2, Qwen, Llama 3) write bytes as characters: printable Latin-1 bytes stand
// for themselves, the others for the characters from U+0100 on.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace internvl::byte_alphabet {

char32_t character_of(std::uint8_t byte);

// The bytes that a token stands for, or none if one of its characters stands for no byte.
std::optional<std::string> bytes_of(std::string_view token);

}  // namespace internvl::byte_alphabet
