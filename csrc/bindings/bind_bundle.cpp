#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "bindings/paths.h"
#include "bundle/bundle.h"
#include "bundle/graph_files.h"
#include "bundle/manifest.h"
#include "bundle/safetensors_header.h"
#include "bundle/tensor_places.h"
#include "bundle/tensor_table.h"
#include "model/flash_facts.h"
#include "model/tensor_names.h"
#include "runtime/error.h"

namespace internvl::bindings {
namespace {

namespace py = pybind11;

py::tuple tuple_of(const std::vector<std::int64_t>& shape) { return py::tuple(py::cast(shape)); }

template <class Enum>
Enum from_name(std::string_view name, int count) {
  for (int i = 0; i < count; ++i) {
    if (name_of(static_cast<Enum>(i)) == name) return static_cast<Enum>(i);
  }
  throw py::value_error("there is no '" + std::string(name) + "' among tensors.");
}

void register_files(py::module_& module) {
  module.attr("MANIFEST_FORMAT") = std::string(kManifestFormat);
  module.attr("MANIFEST_VERSION") = kManifestVersion;
  module.attr("MANIFEST_FILE") = std::string(kManifestFile);
  module.attr("MAX_MANIFEST_BYTES") = kMaxManifestBytes;
  module.attr("WEIGHTS_FILE") = std::string(kWeightsFile);
  module.attr("TOKENIZER_FILE") = std::string(kTokenizerFile);
  module.attr("BUNDLE_FILES") = py::tuple(py::cast(bundle_files()));
  module.attr("GRAPH_FILES") = py::tuple(py::cast(graph_files()));
  py::tuple sets(kGraphSets.size());
  for (std::size_t i = 0; i < sets.size(); ++i) {
    sets[i] = py::make_tuple(std::string(kGraphSets[i].dialect), std::string(kGraphSets[i].compute));
  }
  module.attr("GRAPH_SETS") = sets;
  module.def(
      "graph_set_name",
      [](std::string_view dialect, std::string_view compute) { return name_of(GraphSet{dialect, compute}); },
      py::arg("dialect"), py::arg("compute"));
  module.def(
      "graph_file",
      [](std::string_view dialect, std::string_view compute, std::string_view part) {
        return graph_file({dialect, compute}, part);
      },
      py::arg("dialect"), py::arg("compute"), py::arg("part"));
}

void register_manifest(py::module_& module) {
  module.attr("MAX_HEAD_DIM") = kMaxHeadDim;
  module.attr("MAX_ROPE_THETA") = kMaxRopeTheta;
  module.attr("MAX_ROPE_FACTOR") = kMaxRopeFactor;
  module.attr("LEAST_INPUT_SCALE") = kLeastInputScale;
  module.attr("MOST_INPUT_SCALE") = kMostInputScale;
  py::class_<Manifest>(module, "Manifest")
      .def(py::init([](std::string json, const std::string& where) {
             return parse_manifest(std::move(json), where);
           }),
           py::arg("json"), py::arg("where"))
      .def("tensor_specs", &tensor_specs);
  module.def(
      "read_manifest",
      [](const py::object& folder) {
        const std::filesystem::path path = path_of(folder);
        const GilRelease release;
        std::string json = read_manifest(path);
        parse_manifest(json, (path / kManifestFile).string());
        return json;
      },
      py::arg("folder"));
}

void register_tensors(py::module_& module) {
  module.attr("CLASS_EMBEDDING") = std::string(kClassEmbedding);
  module.attr("POSITION_EMBEDDING") = std::string(kPositionEmbedding);
  module.attr("PATCH_EMBEDDING") = std::string(kPatchEmbedding);
  module.attr("PATCH_EMBEDDING_BIAS") = std::string(kPatchEmbeddingBias);
  module.attr("FLASH_QUERY") = std::string(kFlashQuery);
  module.attr("EMBED_TOKENS") = std::string(kEmbedTokens);
  module.attr("LLM_NORM") = std::string(kLanguageNorm);
  module.attr("LM_HEAD") = std::string(kLanguageHead);
  module.attr("SCALES_SUFFIX") = std::string(kScalesSuffix);
  module.attr("INT4_BLOCK") = int4_block;
  module.attr("FLASH_BLOCKS") = kFlashBlocks;
  module.def("vit_layer", &vision_layer, py::arg("layer"), py::arg("name"));
  module.def("llm_layer", &language_layer, py::arg("layer"), py::arg("name"));

  py::class_<StoredTensor>(module, "StoredTensor")
      .def_readonly("name", &StoredTensor::name)
      .def_property_readonly("dtype", [](const StoredTensor& t) { return std::string(name_of(t.type)); })
      .def_property_readonly("shape", [](const StoredTensor& t) { return tuple_of(t.shape); })
      .def_property_readonly("bytes", &StoredTensor::bytes)
      .def_property_readonly("header_dtype",
                             [](const StoredTensor& t) { return std::string(t.header_type()); })
      .def_property_readonly("header_shape",
                             [](const StoredTensor& t) { return tuple_of(t.header_shape()); });
  py::class_<TensorSpec>(module, "TensorSpec")
      .def(py::init([](std::string name, std::vector<std::int64_t> shape, std::string_view kind,
                       std::string_view part) {
             return TensorSpec{std::move(name), std::move(shape), from_name<TensorKind>(kind, 3),
                               from_name<ModelPart>(part, 4)};
           }),
           py::arg("name"), py::arg("shape"), py::arg("kind"), py::arg("part"))
      .def_readonly("name", &TensorSpec::name)
      .def_property_readonly("shape", [](const TensorSpec& spec) { return tuple_of(spec.shape); })
      .def_property_readonly("kind", [](const TensorSpec& spec) { return std::string(name_of(spec.kind)); })
      .def_property_readonly("part", [](const TensorSpec& spec) { return std::string(name_of(spec.part)); })
      .def_property_readonly("precision",
                             [](const TensorSpec& spec) { return std::string(name_of(spec.precision)); })
      .def_property_readonly("stored", &TensorSpec::stored);
  py::class_<TensorEntry>(module, "TensorPlace")
      .def_property_readonly(
          "tensor",
          [](const TensorEntry& entry) { return StoredTensor{entry.name, entry.type, entry.shape}; })
      .def_readonly("begin", &TensorEntry::begin)
      .def_readonly("end", &TensorEntry::end);
  module.def(
      "read_places",
      [](const py::object& folder, const Manifest& manifest) {
        return read_places(path_of(folder), manifest);
      },
      py::arg("folder"), py::arg("manifest"));

  py::class_<HeaderEntry>(module, "HeaderEntry")
      .def_readonly("name", &HeaderEntry::name)
      .def_readonly("dtype", &HeaderEntry::type)
      .def_property_readonly("shape", [](const HeaderEntry& entry) { return tuple_of(entry.shape); })
      .def_readonly("begin", &HeaderEntry::begin)
      .def_readonly("end", &HeaderEntry::end);
  module.def(
      "read_safetensors_header",
      [](const py::object& path) { return read_safetensors_header(path_of(path)); }, py::arg("path"));
}

}  // namespace

void register_bundle(py::module_& module) {
  register_files(module);
  register_manifest(module);
  register_tensors(module);
  module.def(
      "open_bundle",
      [](const py::object& folder, bool verify) {
        const std::filesystem::path path = path_of(folder);
        const GilRelease release;
        Bundle bundle = open_bundle(path, verify);
        return std::make_pair(std::move(bundle.manifest_json), std::move(bundle.places));
      },
      py::arg("folder"), py::kw_only(), py::arg("verify") = false);
}

}  // namespace internvl::bindings
