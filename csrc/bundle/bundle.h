// Opening a bundle: everything is checked before anything is used.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bundle/manifest.h"
#include "bundle/tensor_places.h"
#include "runtime/weight_file.h"

namespace internvl {

inline constexpr std::string_view kTokenizerFile = "tokenizer.json";

// Every file that a bundle may have beside its manifest.
std::vector<std::string> bundle_files();

// A bundle whose files are all there and agree with its manifest.
struct Bundle {
  std::filesystem::path folder;
  std::string manifest_json;
  Manifest manifest;
  std::vector<TensorEntry> places;  // every stored tensor, and where it lies in the weights file

  // The path of one of the files that the manifest lists. Throws BundleError if it does not.
  std::filesystem::path file(std::string_view name) const;
  // The weights, memory-mapped.
  std::shared_ptr<const WeightFile> weights() const;
};

// Checks manifest, files, and the header of the weights. Graphs and tokenizer are small and always held
// against their SHA-256; the weights, which takes reading the whole file, if `verify` is set. Throws
// BundleError if anything is missing, truncated, altered, out of range or of another format version. It names
// the file and the field or tensor, and says what to do. FileError if the system does not give a file.
Bundle open_bundle(const std::filesystem::path& folder, bool verify = false);

}  // namespace internvl
