#include "bundle/bundle.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

#include "bundle/graph_files.h"
#include "runtime/error.h"
#include "runtime/regular_file.h"
#include "runtime/sha256.h"
#include "runtime/utf8.h"

namespace internvl {
namespace {

void check_folder(const std::filesystem::path& folder) {
  using std::filesystem::file_type;
  if (folder.native().find('\0') != std::string::npos) {
    throw BundleError(std::string(folder.c_str()) + ": is followed by a null character, which no path has.",
                      ErrorCode::no_bundle);
  }
  const file_type type = type_of_file(folder);
  if (type == file_type::directory) return;
  throw BundleError(
      folder.string() + (type == file_type::not_found ? ": there is no such folder." : ": is not a folder."),
      ErrorCode::no_bundle);
}

void check_names(const Bundle& bundle) {
  const std::string folder = bundle.folder.string();
  if (bundle.manifest.file(kWeightsFile) == nullptr) {
    throw BundleError(folder + ": its manifest does not list " + std::string(kWeightsFile) +
                      ". Export the bundle again.");
  }
  const std::vector<std::string> known = bundle_files();
  const auto unknown = std::ranges::find_if(bundle.manifest.files, [&](const FileEntry& entry) {
    return std::ranges::find(known, entry.name) == known.end();
  });
  if (unknown == bundle.manifest.files.end()) return;
  std::string names;
  for (const std::string& name : known) names += (names.empty() ? "" : ", ") + name;
  throw BundleError(folder + ": its manifest lists the unknown file '" + utf8::shown(unknown->name, 200) +
                    "'; a bundle has only " + names + ". Export the bundle again.");
}

std::string sha256_of(const RegularFile& file) {
  std::vector<std::byte> chunk(std::size_t{1} << 18);
  Sha256 digest;
  std::uint64_t position = 0;
  while (const std::size_t got = file.read(position, chunk)) {
    digest.update(std::span(chunk).first(got));
    position += got;
  }
  return digest.finish();
}

void check_file(const std::filesystem::path& path, const FileEntry& entry, bool verify) {
  const std::string where = path.string();
  const auto file = RegularFile::open(path);
  if (!file) {
    throw BundleError(
        where +
        ": the bundle's manifest lists this file, but it is not there. Copy the whole folder, or "
        "export the bundle again.");
  }
  if (file->size() != entry.bytes) {
    throw BundleError(where + ": has " + std::to_string(file->size()) + " bytes where the manifest says " +
                      std::to_string(entry.bytes) +
                      ". The file is truncated or altered: copy or export the bundle again.");
  }
  if (verify && sha256_of(*file) != entry.sha256) {
    throw BundleError(
        where +
        ": its SHA-256 is not the one in the manifest. The file is altered: copy or export the bundle "
        "again.");
  }
}

}  // namespace

std::vector<std::string> bundle_files() {
  std::vector<std::string> names = graph_files();
  names.insert(names.begin(), std::string(kWeightsFile));
  names.emplace_back(kTokenizerFile);
  return names;
}

std::filesystem::path Bundle::file(std::string_view name) const {
  if (manifest.file(name) != nullptr) return folder / name;
  throw BundleError(folder.string() + ": this bundle has no " + std::string(name) +
                    ". Export the bundle again.");
}

std::shared_ptr<const WeightFile> Bundle::weights() const {
  return std::make_shared<WeightFile>(folder / kWeightsFile, places);
}

Bundle open_bundle(const std::filesystem::path& folder, bool verify) {
  check_folder(folder);
  Bundle bundle;
  bundle.folder = folder;
  bundle.manifest_json = read_manifest(folder);
  bundle.manifest = parse_manifest(bundle.manifest_json, (folder / kManifestFile).string());
  check_names(bundle);
  for (const FileEntry& entry : bundle.manifest.files) {
    check_file(folder / entry.name, entry, verify || entry.name != kWeightsFile);
  }
  bundle.places = read_places(folder, bundle.manifest);
  return bundle;
}

}  // namespace internvl
