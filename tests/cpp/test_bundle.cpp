// Bundles: what is right opens and computes, and everything that is not is a BundleError that says where.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bundle/bundle.h"
#include "bundle/graph_files.h"
#include "bundle/manifest.h"
#include "bundle/safetensors_header.h"
#include "bundle/tensor_table.h"
#include "check.h"
#include "devices.h"
#include "image/pixel_values.h"
#include "model/decoder.h"
#include "model/vision_encoder.h"
#include "random_weights.h"
#include "runtime/sha256.h"

namespace internvl {
namespace {

constexpr std::string_view kManifest = R"({
  "format": "internvl_rt bundle", "format_version": 1,
  "name": "tiny", "source_format": "synthetic", "generator": "a test",
  "vision": {"hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 48, "image_size": 28, "patch_size": 7,
             "norm": "layer_norm", "norm_eps": 1e-6, "qkv_bias": true, "qk_norm": true},
  "projector": {"downsample": 2, "pixel_shuffle": "v2", "norm_eps": 1e-05},
  "llm": {"architecture": "qwen3", "hidden_size": 64, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16,
          "intermediate_size": 96, "vocab_size": 60, "norm_eps": 1e-06, "qkv_bias": false, "qk_norm": true,
          "tied_embeddings": false,
          "rope": {"theta": 10000.0, "scaling": "dynamic", "factor": 2, "max_position_embeddings": 128,
                   "short_factor": [], "long_factor": [], "original_max_position_embeddings": null,
                   "attention_factor": 1.0},
          "experts": null},
  "tiling": {"tile_size": 28, "min_tiles": 1, "max_tiles": 12, "thumbnail": true, "dynamic": true,
             "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
  "prompt": {"template": "internvl2_5", "system_message": "Sei höflich.", "image_context_id": 7, "bos_id": null,
             "stop_ids": [3, 4], "prefix_ids": [], "task_ids": [9], "clean_up_spaces": false},
  "precision": {"vit": "bf16", "projector": "fp16", "llm": "int4", "embedding": "bf16",
                "exceptions": {"llm.layers.1.down.weight": "int8", "vit.layers.0.fc1.weight": "int8"},
                "input_scales": {"vit.layers.0.fc1.weight": 0.25}},
  "flash": null,
  "files": {FILES}
})";

std::string replaced(std::string text, std::string_view part, std::string_view by) {
  const std::size_t at = text.find(part);
  if (at == std::string::npos) throw test::Failure{"no " + std::string(part) + " in the manifest"};
  return text.replace(at, part.size(), by);
}

std::string manifest_text(const std::string& files = "") {
  return replaced(std::string(kManifest), "FILES", files);
}

// What the error says; empty if there is none.
template <class Call>
std::string refusal(Call call) {
  try {
    call();
  } catch (const BundleError& error) {
    return error.what();
  }
  return "";
}

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

class TemporaryFolder {
 public:
  TemporaryFolder()
      : path_(std::filesystem::temp_directory_path() /
              ("internvl_bundle_" + std::to_string(::getpid()) + "_" + std::to_string(++made))) {
    std::filesystem::create_directory(path_);
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  TemporaryFolder(TemporaryFolder&&) = delete;
  TemporaryFolder& operator=(TemporaryFolder&&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(std::string_view name, std::string_view content) const {
    std::filesystem::path path = path_ / name;
    std::ofstream(path, std::ios::binary).write(content.data(), static_cast<std::streamsize>(content.size()));
    return path;
  }

 private:
  static inline int made = 0;
  std::filesystem::path path_;
};

std::string sha256(std::string_view text) {
  Sha256 digest;
  digest.update(std::as_bytes(std::span(text)));
  return digest.finish();
}

TEST("a manifest's facts are read") {
  const Manifest manifest = parse_manifest(manifest_text(), "here");
  CHECK(manifest.name == "tiny" && manifest.source_format == "synthetic" && !manifest.flash);
  CHECK(manifest.vision.grid() == 4 && manifest.vision.image_tokens() == 4 &&
        manifest.vision.output_size == 64);
  CHECK(manifest.vision.norm == NormKind::layer_norm &&
        manifest.vision.pixel_shuffle == PixelShuffleVersion::v2);
  CHECK(manifest.vision.qk_norm && manifest.vision.norm_eps == 1e-6F &&
        manifest.vision.projector_norm_eps == 1e-5F);
  const DecoderFacts& llm = manifest.llm.decoder;
  CHECK(llm.qkv_rows() == 128 && llm.vocab_size == 60 && llm.qk_norm && !llm.qkv_bias &&
        llm.experts.count == 0);
  CHECK(llm.rope.dynamic && llm.rope.factor == 2.0 && llm.rope.max_positions == 128 && llm.rope.theta == 1e4);
  CHECK(llm.rope.original_positions == 0 && llm.rope.short_factors.empty());
  CHECK(manifest.llm.architecture == "qwen3" && !manifest.llm.tied_embeddings);
  CHECK(manifest.tiling.options.max_tiles == 12 && manifest.tiling.mean[1] == 0.456);
  CHECK(manifest.prompt.system_message == "Sei höflich." && !manifest.prompt.bos_id);
  CHECK((manifest.prompt.stop_ids == std::vector<std::int64_t>{3, 4}) &&
        manifest.prompt.image_context_id == 7);
  CHECK(manifest.precision.llm == Precision::int4 && manifest.precision.input_scales.size() == 1);
  CHECK(manifest.precision.exceptions.at("llm.layers.1.down.weight") == Precision::int8);
}

struct Change {
  std::string_view part;
  std::string_view by;
  std::string_view message;  // a part of it
};

TEST("a manifest that is not possible is refused by the name of the field") {
  const std::string long_name = "\"architecture\": \"" + std::string(101, 'a') + "\"";
  const Change changes[] = {
      {"\"format_version\": 1", "\"format_version\": 2", "format version '2'; this release reads version 1"},
      {"\"format_version\": 1", "\"format_version\": true", "format version 'true'"},
      {"internvl_rt bundle", "another", "is not the manifest of an internvl_rt bundle"},
      {"\"name\": \"tiny\"", "\"name\": 5", "name is '5'; it must be a text"},
      {"\"name\": \"tiny\", ", "", "the field name is missing"},
      {"\"name\": \"tiny\"", "\"name\": \"tiny\", \"surprise\": 1", "unknown field surprise"},
      {"\"heads\": 2", "\"heads\": 2, \"heads\": 4", "has the field vision.heads twice"},
      {"\"layers\": 1", "\"layers\": true", "vision.layers is 'true'; it must be an integer from 1 to 512"},
      {"\"layers\": 1", "\"layers\": 1.0", "vision.layers is '1.0'; it must be an integer"},
      {"\"layers\": 1", "\"layers\": 513", "vision.layers is '513'; it must be from 1 to 512"},
      {"\"heads\": 2", "\"heads\": 3",
       "vision.hidden_size is '32'; it must be a multiple of vision.heads (3)"},
      {"\"norm\": \"layer_norm\"", "\"norm\": \"batch_norm\"",
       "vision.norm is 'batch_norm'; it must be one of layer_norm"},
      {"1e-6", "1e400", "vision.norm_eps is '1e400'; it must be from 0 to 1"},
      {"\"norm_eps\": 1e-6", "\"norm_eps\": \"1e-6\"",
       "vision.norm_eps is '1e-6'; it must be a number from 0 to 1"},
      {"\"qkv_bias\": true", "\"qkv_bias\": 1", "vision.qkv_bias is '1'; it must be true or false"},
      {"\"downsample\": 2", "\"downsample\": 3",
       "projector.downsample is '3'; it must be a divisor of the 4 patches"},
      {"\"architecture\": \"qwen3\"", long_name, "llm.architecture is 'aaa"},
      {"\"architecture\": \"qwen3\"", "\"architecture\": \"é\"",
       "llm.architecture is 'é'; it must be a short ASCII name"},
      {"\"head_dim\": 16", "\"head_dim\": 17", "llm.head_dim is '17'; it must be even"},
      {"\"short_factor\": []", "\"short_factor\": [1, 2]",
       "llm.rope.short_factor is '2 numbers'; it must be 8, half of"},
      {"\"long_factor\": []", "\"long_factor\": [1,1,1,1,1,1,1,1e9]", "llm.rope.long_factor[7] is '1e9'"},
      {"\"long_factor\": []", "\"long_factor\": [1,1,1,1,1,1,1,1]",
       "llm.rope.original_max_position_embeddings is 'null'"},
      {"\"experts\": null", "\"experts\": []", "llm.experts is '[]'; it must be an object"},
      {"\"tile_size\": 28", "\"tile_size\": 56",
       "tiling.tile_size is '56'; it must be vision.image_size (28)"},
      {"\"mean\": [0.485, ", "\"mean\": [", "tiling.mean is '[0.456, 0.406]'; it must be three numbers"},
      {"\"stop_ids\": [3, 4]", "\"stop_ids\": [3, 60]",
       "prompt.stop_ids[1] is '60'; it must be from 0 to 59"},
      {"\"stop_ids\": [3, 4]", "\"stop_ids\": []", "prompt.stop_ids is '[]'; it must be 1 to 64 token ids"},
      {"höflich", "\\ud800", "in prompt.system_message, a pair of surrogates"},
      {"\"embedding\": \"bf16\"", "\"embedding\": \"int8\"",
       "precision.embedding is 'int8'; it must be fp32, fp16 or bf16"},
      {"\"intermediate_size\": 96", "\"intermediate_size\": 90",
       "because a matrix has 90 columns, not a multiple of 32"},
      {"0.25", "0",
       "precision.input_scales['vit.layers.0.fc1.weight'] is '0'; it must be from 6.103515625e-05 to 511.75"},
      {"\"llm.layers.1.down.weight\": \"int8\"", "\"x\\u001b\": \"int4\"",
       "precision.exceptions['x\\x1b'] is 'int4'"},
      {"FILES", R"("vit.onnx": {"bytes": 1, "sha256": "ab"})",
       "files['vit.onnx'].sha256 is 'ab'; it must be 64"},
      {"FILES", R"("vit.onnx": {"bytes": -1, "sha256": "ab"})", "files['vit.onnx'].bytes is '-1'"},
  };
  for (const Change& change : changes) {
    std::string text = replaced(std::string(kManifest), change.part, change.by);
    if (change.part != "FILES") text = replaced(std::move(text), "FILES", "");
    const std::string found = refusal([&] { parse_manifest(text, "here"); });
    if (!found.starts_with("here: ") || !contains(found, change.message) || !contains(found, "xport")) {
      throw test::Failure{std::string(change.part) + " -> " + std::string(change.by) + ": " + found};
    }
  }
  CHECK(contains(refusal([] { parse_manifest("[]", "here"); }), "is not the manifest"));
  CHECK(contains(refusal([] { parse_manifest("{", "here"); }), "JSON was expected"));
}

TEST("an integer that no machine has is out of range") {
  const std::string text =
      replaced(manifest_text(), "\"layers\": 1,", "\"layers\": 1" + std::string(4000, '0') + ",");
  const std::string found = refusal([&] { parse_manifest(text, "here"); });
  CHECK(contains(found, "vision.layers is '1000") && contains(found, "must be from 1 to 512") &&
        found.size() < 400);
}

std::string header_entry(std::string_view name, std::string_view shape, std::string_view offsets) {
  return std::string("\"").append(name) + R"(": {"dtype": "F32", "shape": )" + std::string(shape) +
         R"(, "data_offsets": )" + std::string(offsets) + "}";
}

TEST("a safetensors header is checked before its ranges are used") {
  const auto parse = [](const std::string& members, std::uint64_t data) {
    return parse_safetensors_header("{" + members + "}", 100, 100 + data);
  };
  const auto both = parse(header_entry("b", "[2, 3]", "[16, 40]") + "," +
                              header_entry("a", "[4]", "[0, 16]") + R"(, "__metadata__": {"format": "pt"})",
                          40);
  CHECK(both.size() == 2 && both[0].name == "b" && both[0].begin == 116 && both[0].end == 140);
  CHECK((both[0].shape == std::vector<std::int64_t>{2, 3}) && both[1].type == "F32");
  CHECK(parse("", 0).empty());
  CHECK(parse(header_entry("a", "[0, 281474976710656]", "[0, 0]"), 0).size() == 1);
  const std::pair<std::string, std::string_view> wrong[] = {
      {header_entry("a", "[4]", "[0, 12]"), "tensor 'a' has 12 bytes where F32 [4] needs 16"},
      {header_entry("a", "[140737488355328, 140737488355328]", "[0, 16]"), "needs more than any file has"},
      {header_entry("a", "[true]", "[0, 16]"), "impossible shape [true]"},
      {header_entry("a", "[4.0]", "[0, 16]"), "impossible shape [4.0]"},
      {header_entry("a", "[-4]", "[0, 16]"), "impossible shape"},
      {header_entry("a", "[1,1,1,1,1,1,1,1,4]", "[0, 16]"), "impossible shape"},
      {header_entry("a", "[4]", "[16, 0]"), "impossible data_offsets"},
      {header_entry("a", "[4]", "[0, 99999999999999999999]"), "impossible data_offsets"},
      {header_entry("a", "[4]", "[0, 16, 16]"), "impossible data_offsets"},
      {header_entry("a", "[4]", "[4, 20]"), "leaves a hole after the header"},
      {header_entry("a", "[4]", "[0, 16]") + "," + header_entry("b", "[4]", "[8, 24]"),
       "'b' at bytes 108 to 124 overlaps tensor 'a'"},
      {header_entry("a", "[2]", "[0, 8]"), "end at byte 108 of a file of 116"},
      {header_entry("a", "[4]", "[0, 16]") + "," + header_entry("a", "[4]", "[0, 16]"),
       "has the key 'a' twice"},
      {R"("a": {"dtype": "F31", "shape": [4], "data_offsets": [0, 16]})", "unknown type 'F31'"},
      {R"("a": {"dtype": "F32", "shape": [4]})", "not of dtype, shape and data_offsets"},
      {R"("a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], "x": 1})", "not of dtype, shape"},
      {R"("a": 1)", "not of dtype, shape"},
      {R"("__metadata__": {"a": 1})", "its __metadata__ is not an object of strings"},
      {"\"a\": NaN", "is not JSON: at byte 6, in a, a value was expected, not 'NaN}'"},
  };
  for (const auto& [members, message] : wrong) {
    const std::string found = refusal([&] { parse(members, 16); });
    if (!contains(found, message)) throw test::Failure{members + ": " + found};
  }
}

TEST("a file's header is bounded before it is read") {
  const TemporaryFolder folder;
  const auto message = [&](std::string_view content) {
    const auto path = folder.write("weights", content);
    return refusal([&] { read_safetensors_header(path); });
  };
  using namespace std::string_view_literals;
  CHECK(contains(message(""), "truncated"));
  CHECK(contains(message("\2\0\0\0\0\0\0"sv), "truncated"));
  CHECK(contains(message("\3\0\0\0\0\0\0\0{}"sv), "claims 3 bytes of a file of 10"));
  CHECK(contains(message("\xff\xff\xff\xff\xff\xff\xff\xff{}"sv), "claims 18446744073709551615 bytes"));
  CHECK(contains(message("\0\0\0\1\0\0\0\0"sv.substr(0, 8)), "claims 16777216 bytes of a file of 8"));
  CHECK(message("\2\0\0\0\0\0\0\0{}"sv).empty());
  CHECK_THROWS(FileError, read_safetensors_header(folder.path() / "nothing"));
}

TEST("the table has a model's tensors as they are stored") {
  const Manifest manifest = parse_manifest(manifest_text(), "here");
  const std::vector<TensorSpec> specs = tensor_specs(manifest);
  const auto stored = [&](std::string_view name) {
    const auto found = std::ranges::find(specs, name, &TensorSpec::name);
    return found == specs.end() ? std::vector<StoredTensor>() : found->stored();
  };
  CHECK(specs.front().name == "vit.class_embedding" && specs.back().name == "llm.lm_head.weight");
  CHECK(stored("vit.position_embedding").at(0).shape == (std::vector<std::int64_t>{17, 32}));
  CHECK(stored("vit.patch_embedding.weight").at(0).type == DataType::bfloat16);
  CHECK(stored("vit.layers.0.fc1.weight").at(1).shape == (std::vector<std::int64_t>{48}));
  CHECK(stored("projector.fc1.weight").at(0).type == DataType::float16);
  const auto qkv = stored("llm.layers.0.qkv.weight");
  CHECK(qkv.size() == 2 && qkv[0].type == DataType::int4 && qkv[0].bytes() == 128 * 64 / 2);
  CHECK(qkv[0].header_type() == "U8" && qkv[0].header_shape() == (std::vector<std::int64_t>{128, 32}));
  CHECK(qkv[1].name == "llm.layers.0.qkv.weight.scales" &&
        qkv[1].shape == (std::vector<std::int64_t>{128, 2}));
  CHECK(stored("llm.layers.1.down.weight").at(0).type == DataType::int8);
  CHECK(stored("llm.layers.0.qkv.bias").empty() && stored("flash.query").empty());
  std::string tied = replaced(manifest_text(), "\"tied_embeddings\": false", "\"tied_embeddings\": true");
  CHECK(tensor_specs(parse_manifest(tied, "here")).back().name == "llm.lm_head.weight");
  tied = replaced(std::move(tied), "\"llm\": \"int4\"", "\"llm\": \"bf16\"");
  CHECK(tensor_specs(parse_manifest(tied, "here")).back().name == "llm.norm.weight");
}

TEST("graphs have the names of their part, dialect and type") {
  CHECK(graph_file({"onnx24", "fp32"}, "vit") == "vit.onnx");
  CHECK(graph_file({"ort", "fp32"}, "llm") == "llm.ort.onnx");
  CHECK(graph_file({"trt10", "fp16"}, "flash") == "flash.trt10-fp16.onnx");
  std::vector<std::string> names = bundle_files();
  CHECK(names.front() == "weights.safetensors" && names.back() == "tokenizer.json" && names.size() == 34);
  std::ranges::sort(names);
  CHECK(std::ranges::adjacent_find(names) == names.end());
}

std::string text_of(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t extent : shape) text += (text.empty() ? "" : ", ") + std::to_string(extent);
  return "[" + text + "]";
}

void append(std::string& text, const std::vector<std::byte>& bytes) {
  text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

// The weights file of a model, filled at random.
std::string weights_of(const Manifest& manifest) {
  std::string header = R"({"__metadata__": {"format": "a test"})";
  std::string data;
  unsigned seed = 0;
  for (const TensorSpec& spec : tensor_specs(manifest)) {
    const std::vector<StoredTensor> stored = spec.stored();
    const auto rows = static_cast<std::size_t>(spec.shape[0]);
    std::size_t columns = 1;
    for (const std::int64_t extent : std::span(spec.shape).subspan(1))
      columns *= static_cast<std::size_t>(extent);
    const test::RandomWeights weights(stored[0].type, rows, columns, ++seed);
    for (std::size_t i = 0; i < stored.size(); ++i) {
      const std::string begin = std::to_string(data.size());
      append(data, i == 0 ? weights.values_bytes : weights.scales_bytes);
      header += ", \"" + stored[i].name + R"(": {"dtype": ")" + std::string(stored[i].header_type()) +
                R"(", "shape": )" + text_of(stored[i].header_shape()) + R"(, "data_offsets": [)" + begin +
                ", " + std::to_string(data.size()) + "]}";
    }
  }
  header += "}";
  header.resize((8 + header.size() + 63) / 64 * 64 - 8, ' ');
  std::string whole(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) whole[i] = static_cast<char>(header.size() >> 8 * i & 255);
  return whole + header + data;
}

std::string file_entry(std::string_view name, std::string_view content) {
  return std::string("\"").append(name) + R"(": {"bytes": )" + std::to_string(content.size()) +
         R"(, "sha256": ")" + sha256(content) + "\"}";
}

// A folder with a whole bundle.
class TinyBundle {
 public:
  TinyBundle() : weights_(weights_of(parse_manifest(manifest_text(), "here"))) {
    folder_.write("weights.safetensors", weights_);
    folder_.write("tokenizer.json", "{}");
    list(file_entry("weights.safetensors", weights_) + ", " + file_entry("tokenizer.json", "{}"));
  }

  const TemporaryFolder& folder() const { return folder_; }
  const std::filesystem::path& path() const { return folder_.path(); }
  const std::string& weights() const { return weights_; }
  void list(const std::string& files) const { folder_.write("manifest.json", manifest_text(files)); }
  std::string refused(bool verify = false) const {
    return refusal([&] { open_bundle(path(), verify); });
  }

 private:
  TemporaryFolder folder_;
  std::string weights_;
};

bool finite(const std::vector<float>& values) {
  return std::ranges::all_of(values, [](float value) { return std::isfinite(value); });
}

TEST("a bundle opens and computes without Python") {
  const TinyBundle tiny;
  const Bundle bundle = open_bundle(tiny.path(), true);
  CHECK(bundle.manifest_json.size() > 1000 &&
        bundle.file("tokenizer.json") == tiny.path() / "tokenizer.json");
  CHECK_THROWS(BundleError, bundle.file("vit.onnx"));
  const auto weights = bundle.weights();
  const auto device = test::cpu(2);

  VisionEncoder vision(bundle.manifest.vision, bundle.manifest.flash,
                       make_normalisation(bundle.manifest.tiling.mean, bundle.manifest.tiling.deviation),
                       weights, device);
  const std::vector<float> pixels = test::random_floats(2 * vision.facts().tile_pixels(), 1);
  std::vector<float> features(2 * vision.facts().image_tokens() * vision.facts().output_size);
  vision.encode(std::span<const float>(pixels), 2, {features.data()});
  CHECK(finite(features));

  Decoder decoder(bundle.manifest.llm.decoder, weights, device, {.cache_tokens = 256});
  std::vector<std::int64_t> ids = {1, 2};
  ids.insert(ids.end(), 2 * vision.facts().image_tokens(), bundle.manifest.prompt.image_context_id);
  std::vector<float> embeddings(ids.size() * decoder.facts().hidden_size);
  decoder.embed(ids, features.data(), 2 * vision.facts().image_tokens(),
                bundle.manifest.prompt.image_context_id, embeddings.data());
  const SequenceId sequence = decoder.new_sequence();
  std::vector<float> logits(decoder.facts().vocab_size);
  decoder.prefill(sequence, embeddings.data(), ids.size(), false, logits.data());
  CHECK(finite(logits));
  const std::vector<float> before = logits;
  decoder.decode(std::array{sequence}, std::array{std::int64_t{5}}, logits.data());
  CHECK(finite(logits) && logits != before);
}

TEST("a bundle that is not whole is refused by the name of the file") {
  const TinyBundle tiny;
  CHECK(tiny.refused(true).empty());
  const std::string folder = tiny.path().string();
  const std::string weights = file_entry("weights.safetensors", tiny.weights());

  CHECK(contains(refusal([&] { open_bundle(tiny.path() / "nothing"); }), "nothing: there is no such folder"));
  CHECK(contains(refusal([&] { open_bundle(tiny.path() / "tokenizer.json"); }), "is not a folder"));
  CHECK(contains(refusal([&] { open_bundle(folder + std::string("\0x", 2)); }), "a null character"));

  tiny.list(file_entry("tokenizer.json", "{}"));
  CHECK(contains(tiny.refused(), folder + ": its manifest does not list weights.safetensors"));
  tiny.list(weights + ", " + file_entry("../x", ""));
  CHECK(contains(tiny.refused(),
                 "lists the unknown file '../x'; a bundle has only weights.safetensors, vit.onnx"));
  tiny.list(weights + ", " + file_entry("llm.onnx", ""));
  CHECK(contains(tiny.refused(), "llm.onnx: the bundle's manifest lists this file, but it is not there"));
  tiny.list(weights + ", " + file_entry("tokenizer.json", "[]"));
  CHECK(contains(tiny.refused(), "tokenizer.json: its SHA-256 is not the one in the manifest"));
  tiny.list(weights + ", " + file_entry("tokenizer.json", "[1]"));
  CHECK(contains(tiny.refused(), "tokenizer.json: has 2 bytes where the manifest says 3"));

  tiny.list(weights);
  std::string altered = tiny.weights();
  altered.back() = static_cast<char>(altered.back() ^ 1);
  tiny.folder().write("weights.safetensors", altered);
  CHECK(tiny.refused().empty() && contains(tiny.refused(true), "weights.safetensors: its SHA-256"));
  tiny.folder().write("weights.safetensors",
                      replaced(tiny.weights(), "vit.layers.0.ls1", "vit.layers.9.ls1"));
  CHECK(contains(tiny.refused(), "weights.safetensors: tensor 'vit.layers.0.ls1' is missing"));
  tiny.folder().write("weights.safetensors", replaced(tiny.weights(), "\"shape\": [32]", "\"shape\":[8,4]"));
  CHECK(contains(tiny.refused(), "is F32 [8, 4]; the manifest asks for F32 [32]"));

  tiny.folder().write("manifest.json", std::string(kMaxManifestBytes + 1, ' '));
  CHECK(contains(tiny.refused(), "is larger than 4194304 bytes, which no manifest is"));
  std::filesystem::remove(tiny.path() / "manifest.json");
  CHECK(contains(tiny.refused(), folder + ": is not a bundle: it has no manifest.json"));
}

TEST("what a manifest says of single matrices is of the model's") {
  const TinyBundle tiny;
  const auto refused = [&](std::string_view part, std::string_view by) {
    const Manifest changed = parse_manifest(replaced(manifest_text(), part, by), "here");
    return refusal([&] { read_places(tiny.path(), changed); });
  };
  CHECK(contains(
      refused("\"vit.layers.0.fc1.weight\": \"int8\"",
              "\"vit.layers.0.fc1.weight\": \"int8\", \"vit.layers.0.norm1.weight\": \"fp16\""),
      "precision.exceptions name 'vit.layers.0.norm1.weight', which is not one of this model's matrices"));
  CHECK(contains(
      refused("\"vit.layers.0.fc1.weight\": 0.25", "\"vit.layers.0.fc2.weight\": 0.25"),
      "precision.input_scales name 'vit.layers.0.fc2.weight', which is not one of this model's int8"));
  CHECK(contains(refused("\"layers\": 2", "\"layers\": 1"),
                 "precision.exceptions name 'llm.layers.1.down.weight'"));
}

// Bytes flipped, replaced, removed, inserted, repeated and cut off.
std::string mutated(std::string text, std::mt19937& generator) {
  const auto below = [&](std::size_t n) { return n == 0 ? 0 : generator() % n; };
  constexpr std::array<std::string_view, 12> kPieces = {"[",  "{\"a\":", "-", "9",   "1e9",  "null",
                                                        "\"", "}",       ",", "\\u", "\xff", "true"};
  for (std::size_t changes = 1 + below(4); changes > 0; --changes) {
    const std::size_t at = below(text.size() + 1);
    const std::size_t length = below(10);
    switch (below(6)) {
      case 0:
        if (at < text.size())
          text[at] = static_cast<char>(static_cast<unsigned char>(text[at]) ^ 1U << below(8));
        break;
      case 1:
        if (at < text.size()) text[at] = static_cast<char>(below(256));
        break;
      case 2:
        text.erase(at, length);
        break;
      case 3:
        text.insert(at, kPieces[below(kPieces.size())]);
        break;
      case 4:
        text.insert(at, text.substr(at, length));
        break;
      default:
        text.resize(at);
    }
  }
  return text;
}

TEST("altered and random manifests and headers are read or refused") {
  std::mt19937 generator(1);
  const std::string manifest = manifest_text(file_entry("weights.safetensors", ""));
  const std::string weights = weights_of(parse_manifest(manifest, "here"));
  const std::size_t length =
      static_cast<unsigned char>(weights[0]) + 256U * static_cast<unsigned char>(weights[1]);
  const std::string text = weights.substr(8, length);
  int refused = 0;
  for (int i = 0; i < 4000; ++i) {
    refused += refusal([&] { parse_manifest(mutated(manifest, generator), "here"); }).empty() ? 0 : 1;
    refused += refusal([&] {
                 parse_safetensors_header(mutated(text, generator), 8 + length, weights.size());
               }).empty()
                   ? 0
                   : 1;
    std::string noise(generator() % 200, '\0');
    for (char& byte : noise) byte = static_cast<char>(generator());
    CHECK(!refusal([&] { parse_manifest(noise, "here"); }).empty());
    CHECK(!refusal([&] { parse_safetensors_header(noise, 8, 8 + noise.size()); }).empty());
  }
  CHECK(refused > 4000);
}

}  // namespace
}  // namespace internvl

int main() { return internvl::test::run_all(); }
