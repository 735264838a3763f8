#include "bundle/tensor_places.h"

#include <string>
#include <unordered_map>
#include <utility>

#include "bundle/safetensors_header.h"
#include "bundle/tensor_table.h"
#include "runtime/error.h"
#include "runtime/utf8.h"

namespace internvl {
namespace {

constexpr std::size_t kShownName = 200;

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& what) {
  throw BundleError(path.string() + ": " + what + ". Export the bundle again.");
}

std::vector<HeaderEntry> read_header(const std::filesystem::path& path) {
  try {
    return read_safetensors_header(path);
  } catch (const HeaderError& error) {
    fail(path, error.what());
  }
}

std::string text_of(std::string_view type, const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t extent : shape) text += (text.empty() ? "" : ", ") + std::to_string(extent);
  return std::string(type) + " [" + text + "]";
}

// The entries of a header that the model has asked for are taken out.
class Header {
 public:
  explicit Header(const std::filesystem::path& path) : path_(path), entries_(read_header(path)) {
    for (const HeaderEntry& entry : entries_) left_.emplace(entry.name, &entry);
  }

  TensorEntry take(const StoredTensor& tensor) {
    const auto found = left_.find(tensor.name);
    if (found == left_.end()) fail(path_, "tensor '" + tensor.name + "' is missing");
    const HeaderEntry& entry = *found->second;
    if (entry.type != tensor.header_type() || entry.shape != tensor.header_shape()) {
      fail(path_, "tensor '" + tensor.name + "' is " + text_of(entry.type, entry.shape) +
                      "; the manifest asks for " + text_of(tensor.header_type(), tensor.header_shape()));
    }
    left_.erase(found);
    return {tensor.name, tensor.type, tensor.shape, entry.begin, entry.end};
  }

  void finish() const {
    for (const HeaderEntry& entry : entries_) {
      if (left_.contains(entry.name)) {
        fail(path_,
             "tensor '" + utf8::shown(entry.name, kShownName) + "' is not one of this model's tensors");
      }
    }
  }

 private:
  std::filesystem::path path_;
  std::vector<HeaderEntry> entries_;
  std::unordered_map<std::string_view, const HeaderEntry*> left_;
};

// What the manifest says of single matrices is of matrices that the model has.
void check_named_matrices(const std::filesystem::path& path, const Manifest& manifest,
                          const std::vector<TensorSpec>& specs) {
  std::unordered_map<std::string_view, Precision> matrices;
  for (const TensorSpec& spec : specs) {
    if (spec.kind == TensorKind::matrix) matrices.emplace(spec.name, spec.precision);
  }
  for (const auto& [name, precision] : manifest.precision.exceptions) {
    if (matrices.contains(name)) continue;
    fail(path, "the manifest's precision.exceptions name '" + utf8::shown(name, kShownName) +
                   "', which is not one of this model's matrices");
  }
  for (const auto& [name, scale] : manifest.precision.input_scales) {
    const auto found = matrices.find(name);
    if (found != matrices.end() && found->second == Precision::int8) continue;
    fail(path, "the manifest's precision.input_scales name '" + utf8::shown(name, kShownName) +
                   "', which is not one of this model's int8 matrices");
  }
}

}  // namespace

std::vector<TensorEntry> read_places(const std::filesystem::path& folder, const Manifest& manifest) {
  const std::filesystem::path path = folder / kWeightsFile;
  const std::vector<TensorSpec> specs = tensor_specs(manifest);
  Header header(path);
  std::vector<TensorEntry> places;
  for (const TensorSpec& spec : specs) {
    for (const StoredTensor& tensor : spec.stored()) places.push_back(header.take(tensor));
  }
  check_named_matrices(path, manifest, specs);
  header.finish();
  return places;
}

}  // namespace internvl
