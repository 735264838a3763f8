// The names by which a bundle stores the tensors of a model.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace internvl {

inline constexpr std::string_view kClassEmbedding = "vit.class_embedding";
inline constexpr std::string_view kPositionEmbedding = "vit.position_embedding";
inline constexpr std::string_view kPatchEmbedding = "vit.patch_embedding.weight";
inline constexpr std::string_view kPatchEmbeddingBias = "vit.patch_embedding.bias";
inline constexpr std::string_view kFlashQuery = "flash.query";
inline constexpr std::string_view kEmbedTokens = "llm.embed_tokens.weight";
inline constexpr std::string_view kLanguageNorm = "llm.norm.weight";
inline constexpr std::string_view kLanguageHead = "llm.lm_head.weight";

// A tensor, or a module such as qkv, of a layer of the vision tower or of the language model.
inline std::string vision_layer(std::size_t layer, std::string_view name) {
  return "vit.layers." + std::to_string(layer) + "." + std::string(name);
}
inline std::string language_layer(std::size_t layer, std::string_view name) {
  return "llm.layers." + std::to_string(layer) + "." + std::string(name);
}

}  // namespace internvl
