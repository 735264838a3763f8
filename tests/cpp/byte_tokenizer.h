// A tokenizer whose ids are bytes, and behind these the special tokens of the prompts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "prompt/byte_alphabet.h"
#include "prompt/tokenizer.h"
#include "runtime/utf8.h"

namespace internvl::test {

inline const std::vector<std::string> kControls = {
    "<|im_start|>", "<|im_end|>", "<img>",         "</img>",  "<IMG_CONTEXT>",
    "<|system|>",   "<|user|>",   "<|assistant|>", "<|end|>", "<ref>",
};

// Of a special token; -1 for another text.
inline std::int64_t id_of(std::string_view token) {
  for (std::size_t i = 0; i < kControls.size(); ++i) {
    if (kControls[i] == token) return static_cast<std::int64_t>(256 + i);
  }
  return -1;
}

// With all special tokens but one.
inline std::shared_ptr<const Tokenizer> byte_tokenizer(std::string_view without = "") {
  std::string vocabulary;
  for (int byte = 0; byte < 256; ++byte) {
    std::string character;
    utf8::append(character, byte_alphabet::character_of(static_cast<std::uint8_t>(byte)));
    if (character == "\"" || character == "\\") character.insert(0, 1, '\\');
    vocabulary += (byte == 0 ? "\"" : ", \"") + character + "\": " + std::to_string(byte);
  }
  std::string added;
  for (const std::string& token : kControls) {
    if (token == without) continue;
    added += (added.empty() ? "" : ", ") + (R"({"id": )" + std::to_string(id_of(token))) +
             R"(, "content": ")" + token + R"(", "special": true})";
  }
  return std::make_shared<Tokenizer>(
      R"({"model": {"type": "BPE", "vocab": {)" + vocabulary +
          R"(}, "merges": []}, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false},)"
          R"("decoder": {"type": "ByteLevel"}, "added_tokens": [)" +
          added + "]}",
      TokenizerOptions{});
}

}  // namespace internvl::test
