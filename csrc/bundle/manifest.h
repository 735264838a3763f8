// manifest.json: the facts of a model, the precision of its parts, and its files.
//
// The exporter writes it (bundle/manifest.py says what the fields mean); here it is read and checked. Every
// field is there, of the right type and in a range that makes every later computation of a size small, exact
// and safe.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "image/tile.h"
#include "model/decoder_facts.h"
#include "model/flash_facts.h"
#include "model/vision_facts.h"
#include "prompt/prompt_facts.h"

namespace internvl {

inline constexpr std::string_view kManifestFormat = "internvl_rt bundle";
inline constexpr std::int64_t kManifestVersion = 1;
inline constexpr std::string_view kManifestFile = "manifest.json";
// Enough for a whole vocabulary of task_ids.
inline constexpr std::size_t kMaxManifestBytes = std::size_t{4} << 20;

// Limits that the exporter tells of in its own words, before there is a manifest.
inline constexpr std::size_t kMaxHeadDim = 1024;
inline constexpr double kMaxRopeTheta = 1e15;
inline constexpr double kMaxRopeFactor = 1e6;
// Graphs hold it as fp16: its least normal number, and what 128 steps of do not overflow.
inline constexpr double kLeastInputScale = 0x1p-14;
inline constexpr double kMostInputScale = 65504.0 / 128;

// How a matrix is stored.
enum class Precision : std::uint8_t { fp32, fp16, bf16, int8, int4 };

std::string_view name_of(Precision precision);

struct LanguageModel {
  std::string architecture;
  bool tied_embeddings = false;
  DecoderFacts decoder{};
};

struct Tiling {
  TilingOptions options{};
  std::array<double, 3> mean{};
  std::array<double, 3> deviation{};
};

// The precision of the weights of every part. Norms, biases and layer scales are always fp32.
struct PartPrecision {
  Precision vit{};
  Precision projector{};
  Precision llm{};
  Precision embedding{};
  std::map<std::string, Precision, std::less<>> exceptions;  // matrices, by name
  std::map<std::string, double, std::less<>> input_scales;   // of int8 matrices
};

struct FileEntry {
  std::string name;
  std::uint64_t bytes;
  std::string sha256;  // 64 hexadecimal digits
};

struct Manifest {
  std::string name;
  std::string source_format;
  std::string generator;
  VisionFacts vision{};
  std::optional<FlashFacts> flash;
  LanguageModel llm;
  Tiling tiling;
  PromptFacts prompt;
  PartPrecision precision;
  std::vector<FileEntry> files;  // in the order of the manifest

  // The entry of a file; null if the manifest does not list it.
  const FileEntry* file(std::string_view name) const;
};

// Of the text of a manifest. Throws BundleError that begins with `where`, such as the file's path, and names
// the field, what it is and what it must be.
Manifest parse_manifest(std::string json, const std::string& where);

// The text of manifest.json in a folder. Throws BundleError if it is not there or too large.
std::string read_manifest(const std::filesystem::path& folder);

}  // namespace internvl
