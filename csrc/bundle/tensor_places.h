#pragma once

#include <filesystem>
#include <string_view>
#include <vector>

#include "bundle/manifest.h"
#include "runtime/weight_file.h"

namespace internvl {

inline constexpr std::string_view kWeightsFile = "weights.safetensors";

// Reads the header of a bundle's weights and holds it against the model's facts: every tensor that the
// manifest asks for is there with the right type, shape and length, inside the file, and nothing else is. In
// the order in which they are computed with. Throws BundleError that names the file and the tensor; FileError
// if the system does not give the file.
std::vector<TensorEntry> read_places(const std::filesystem::path& folder, const Manifest& manifest);

}  // namespace internvl
