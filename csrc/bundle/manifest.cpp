#include "bundle/manifest.h"

#include <algorithm>
#include <initializer_list>
#include <span>
#include <utility>

#include "bundle/fields.h"
#include "runtime/data_type.h"
#include "runtime/error.h"
#include "runtime/json.h"
#include "runtime/regular_file.h"
#include "runtime/utf8.h"

namespace internvl {
namespace {

constexpr std::size_t kMaxWidth = std::size_t{1} << 17;  // the largest InternVL has 29568
constexpr std::size_t kMaxLayers = 512;
constexpr std::size_t kMaxHeads = 1024;
constexpr std::size_t kMaxVocabulary = std::size_t{1} << 22;
constexpr std::size_t kMaxImageSize = 4096;
constexpr std::size_t kMaxDownsample = 16;
constexpr std::size_t kMaxPositions = std::size_t{1} << 26;
constexpr std::size_t kMaxTiles = 1024;
constexpr std::size_t kMaxExperts = 4096;
constexpr std::size_t kMaxStopIds = 64;
constexpr std::size_t kMaxPrefixIds = 64;
constexpr std::size_t kMaxText = std::size_t{1} << 16;
constexpr std::size_t kMaxFileBytes = std::size_t{1} << 42;

constexpr std::array<std::string_view, 3> kSourceFormats = {"internvl_chat", "internvl", "synthetic"};
constexpr std::array<std::string_view, 2> kNorms = {"layer_norm", "rms_norm"};
constexpr std::array<std::string_view, 2> kShuffles = {"v1", "v2"};
constexpr std::array<std::string_view, 5> kScalings = {"none", "dynamic", "linear", "llama3", "longrope"};
constexpr std::array<std::string_view, 5> kPrecisions = {"fp32", "fp16", "bf16", "int8", "int4"};

std::string in_brackets(std::string_view name, std::size_t value) {
  return std::string(name) + " (" + std::to_string(value) + ")";
}

std::string divisor_of_grid(const VisionFacts& vision) {
  return "a divisor of the " + std::to_string(vision.grid()) + " patches along a tile";
}

VisionFacts read_vision(Fields vision, Fields projector) {
  VisionFacts facts{};
  facts.hidden_size = vision.size("hidden_size", 1, kMaxWidth);
  facts.layers = vision.size("layers", 1, kMaxLayers);
  facts.heads = vision.size("heads", 1, kMaxHeads);
  facts.intermediate_size = vision.size("intermediate_size", 1, kMaxWidth);
  facts.image_size = vision.size("image_size", 1, kMaxImageSize);
  facts.patch_size = vision.size("patch_size", 1, facts.image_size);
  facts.norm = vision.choice("norm", kNorms) == 0 ? NormKind::layer_norm : NormKind::rms_norm;
  facts.norm_eps = static_cast<float>(vision.number("norm_eps", 0, 1));
  facts.qkv_bias = vision.boolean("qkv_bias");
  facts.qk_norm = vision.boolean("qk_norm");
  vision.require(facts.hidden_size % facts.heads == 0, "hidden_size",
                 "a multiple of " + in_brackets("vision.heads", facts.heads));
  vision.require(facts.image_size % facts.patch_size == 0, "image_size",
                 "a multiple of " + in_brackets("vision.patch_size", facts.patch_size));
  vision.finish();

  facts.downsample = projector.size("downsample", 1, kMaxDownsample);
  projector.require(facts.grid() % facts.downsample == 0, "downsample", divisor_of_grid(facts));
  facts.pixel_shuffle =
      projector.choice("pixel_shuffle", kShuffles) == 0 ? PixelShuffleVersion::v1 : PixelShuffleVersion::v2;
  facts.projector_norm_eps = static_cast<float>(projector.number("norm_eps", 0, 1));
  projector.finish();
  return facts;
}

FlashFacts read_flash(Fields flash, const VisionFacts& vision) {
  FlashFacts facts{};
  facts.downsample = flash.size("downsample", 1, kMaxDownsample);
  flash.require(vision.grid() % facts.downsample == 0, "downsample", divisor_of_grid(vision));
  flash.require(facts.downsample >= vision.downsample, "downsample",
                "at least " + in_brackets("projector.downsample", vision.downsample));
  facts.heads = flash.size("heads", 1, kMaxHeads);
  flash.require(vision.hidden_size % facts.heads == 0, "heads",
                "a divisor of " + in_brackets("vision.hidden_size", vision.hidden_size));
  facts.relative_threshold = flash.number("relative_threshold", 0, 1);
  facts.absolute_threshold = flash.number("absolute_threshold", 0, 1);
  flash.finish();
  return facts;
}

std::vector<double> read_factors(Fields& rope, std::string_view field, std::size_t pairs) {
  std::vector<double> factors = rope.numbers(field, 1e-6, 1e6);
  if (!factors.empty() && factors.size() != pairs) {
    rope.fail("llm.rope." + std::string(field), std::to_string(factors.size()) + " numbers",
              std::to_string(pairs) + ", half of llm.head_dim, or none");
  }
  return factors;
}

RopeFacts read_rope(Fields rope, std::size_t head_dim) {
  RopeFacts facts{};
  facts.theta = rope.number("theta", 1, kMaxRopeTheta);
  // The kinds but dynamic are spelled out in the factors.
  facts.dynamic = kScalings[rope.choice("scaling", kScalings)] == "dynamic";
  rope.require(!facts.dynamic || head_dim > 2, "scaling", "another one, because llm.head_dim is 2");
  facts.factor = rope.number("factor", 1, kMaxRopeFactor);
  facts.max_positions = rope.size("max_position_embeddings", 1, kMaxPositions);
  facts.short_factors = read_factors(rope, "short_factor", head_dim / 2);
  facts.long_factors = read_factors(rope, "long_factor", head_dim / 2);
  const std::string_view original = "original_max_position_embeddings";
  rope.require(rope.is_null(original) == facts.long_factors.empty(), original,
               "there if llm.rope.long_factor is, and only then");
  if (!rope.is_null(original)) facts.original_positions = rope.size(original, 1, kMaxPositions);
  facts.attention_factor = rope.number("attention_factor", 1e-3, 1e3);
  rope.finish();
  return facts;
}

ExpertFacts read_experts(Fields experts) {
  ExpertFacts facts;
  facts.count = experts.size("count", 1, kMaxExperts);
  facts.chosen = experts.size("chosen", 1, facts.count);
  facts.normalise = experts.boolean("normalise");
  experts.finish();
  return facts;
}

LanguageModel read_language_model(Fields llm) {
  LanguageModel model;
  DecoderFacts& facts = model.decoder;
  model.architecture = llm.short_name("architecture");
  facts.hidden_size = llm.size("hidden_size", 1, kMaxWidth);
  facts.layers = llm.size("layers", 1, kMaxLayers);
  facts.heads = llm.size("heads", 1, kMaxHeads);
  facts.kv_heads = llm.size("kv_heads", 1, facts.heads);
  llm.require(facts.heads % facts.kv_heads == 0, "heads",
              "a multiple of " + in_brackets("llm.kv_heads", facts.kv_heads));
  facts.head_dim = llm.size("head_dim", 2, kMaxHeadDim);
  llm.require(facts.head_dim % 2 == 0, "head_dim", "even");
  facts.intermediate_size = llm.size("intermediate_size", 1, kMaxWidth);
  facts.vocab_size = llm.size("vocab_size", 1, kMaxVocabulary);
  facts.norm_eps = static_cast<float>(llm.number("norm_eps", 0, 1));
  facts.qkv_bias = llm.boolean("qkv_bias");
  facts.qk_norm = llm.boolean("qk_norm");
  model.tied_embeddings = llm.boolean("tied_embeddings");
  facts.rope = read_rope(llm.object("rope"), facts.head_dim);
  if (!llm.is_null("experts")) facts.experts = read_experts(llm.object("experts"));
  llm.finish();
  return model;
}

std::array<double, 3> read_channels(Fields& tiling, std::string_view field, double low, double high) {
  const std::vector<double> found = tiling.numbers(field, low, high);
  tiling.require(found.size() == 3, field, "three numbers");
  return {found[0], found[1], found[2]};
}

Tiling read_tiling(Fields tiling, const VisionFacts& vision) {
  Tiling made;
  const std::size_t tile_size = tiling.size("tile_size", 1, kMaxImageSize);
  tiling.require(tile_size == vision.image_size, "tile_size",
                 in_brackets("vision.image_size", vision.image_size));
  const std::size_t min_tiles = tiling.size("min_tiles", 1, kMaxTiles);
  const std::size_t max_tiles = tiling.size("max_tiles", min_tiles, kMaxTiles);
  made.options = {.tile_size = static_cast<int>(tile_size),
                  .min_tiles = static_cast<int>(min_tiles),
                  .max_tiles = static_cast<int>(max_tiles),
                  .thumbnail = tiling.boolean("thumbnail"),
                  .dynamic = tiling.boolean("dynamic")};
  made.mean = read_channels(tiling, "mean", -1e3, 1e3);
  made.deviation = read_channels(tiling, "std", 1e-6, 1e3);
  tiling.finish();
  return made;
}

PromptFacts read_prompt(Fields prompt, std::size_t vocabulary) {
  const auto last = static_cast<std::int64_t>(vocabulary) - 1;
  PromptFacts facts;
  facts.template_name = prompt.short_name("template");
  if (!prompt.is_null("system_message")) facts.system_message = prompt.text("system_message", kMaxText);
  facts.image_context_id = prompt.integer("image_context_id", 0, last);
  if (!prompt.is_null("bos_id")) facts.bos_id = prompt.integer("bos_id", 0, last);
  facts.stop_ids = prompt.integers("stop_ids", 0, last);
  prompt.require(!facts.stop_ids.empty() && facts.stop_ids.size() <= kMaxStopIds, "stop_ids",
                 "1 to " + std::to_string(kMaxStopIds) + " token ids");
  facts.prefix_ids = prompt.integers("prefix_ids", 0, last);
  prompt.require(facts.prefix_ids.size() <= kMaxPrefixIds, "prefix_ids",
                 "at most " + std::to_string(kMaxPrefixIds) + " token ids");
  facts.task_ids = prompt.integers("task_ids", 0, last);
  facts.clean_up_spaces = prompt.boolean("clean_up_spaces");
  prompt.finish();
  return facts;
}

// int4 shares a scale between neighbours in a row, so that every matrix of a part must be so many blocks
// wide.
void require_blocks(Fields& precision, std::string_view part, Precision chosen,
                    std::initializer_list<std::size_t> columns) {
  if (chosen != Precision::int4) return;
  for (const std::size_t width : columns) {
    precision.require(width % int4_block == 0, part,
                      "another one, because a matrix has " + std::to_string(width) +
                          " columns, not a multiple of " + std::to_string(int4_block));
  }
}

PartPrecision read_precision(Fields precision, const VisionFacts& vision, const DecoderFacts& llm) {
  const auto part = [&](std::string_view field) {
    return static_cast<Precision>(precision.choice(field, kPrecisions));
  };
  PartPrecision made;
  made.vit = part("vit");
  made.projector = part("projector");
  made.llm = part("llm");
  made.embedding = part("embedding");
  precision.require(made.embedding != Precision::int8 && made.embedding != Precision::int4, "embedding",
                    "fp32, fp16 or bf16");
  require_blocks(precision, "vit", made.vit, {vision.hidden_size, vision.intermediate_size});
  require_blocks(precision, "projector", made.projector, {vision.block_channels(), llm.hidden_size});
  require_blocks(precision, "llm", made.llm,
                 {llm.hidden_size, llm.heads * llm.head_dim, llm.intermediate_size});

  // int4 has demands on a matrix's size that are not checked of single ones.
  const auto kinds = std::span(kPrecisions).first(4);
  const Fields exceptions = precision.object("exceptions");
  exceptions.each([&](std::string_view name, const json::Value& value) {
    const std::string field = precision.member_name("exceptions", name);
    made.exceptions.emplace(name, static_cast<Precision>(precision.choice_of(value, field, kinds)));
  });
  const Fields scales = precision.object("input_scales");
  scales.each([&](std::string_view name, const json::Value& value) {
    const std::string field = precision.member_name("input_scales", name);
    made.input_scales.emplace(name, precision.number_of(value, field, kLeastInputScale, kMostInputScale));
  });
  precision.finish();
  return made;
}

bool is_digest(std::string_view text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

std::vector<FileEntry> read_files(Fields& root, const std::string& where) {
  std::vector<FileEntry> files;
  root.object("files").each([&](std::string_view name, const json::Value& value) {
    Fields entry(value, where, root.member_name("files", name));
    FileEntry& made = files.emplace_back(std::string(name), entry.size("bytes", 0, kMaxFileBytes),
                                         std::string(entry.value("sha256").string().value_or("")));
    entry.require(is_digest(made.sha256), "sha256", "64 hexadecimal digits");
    entry.finish();
  });
  return files;
}

void check_format(const json::Value& root, const std::string& where) {
  if (root.find_string("format") != kManifestFormat) {
    throw BundleError(where + ": is not the manifest of an internvl_rt bundle. Export it again.");
  }
  const auto version = root.find("format_version");
  if (version && version->integer() == kManifestVersion) return;
  throw BundleError(where + ": format version '" + (version ? utf8::shown(version->text(), 50) : "") +
                    "'; this release reads version " + std::to_string(kManifestVersion) +
                    ". Export the bundle again with this release.");
}

Manifest read_root(const json::Value& document, const std::string& where) {
  check_format(document, where);
  Fields root(document, where);
  root.value("format");
  root.value("format_version");
  Manifest manifest;
  manifest.name = root.text("name", kMaxText);
  manifest.source_format = kSourceFormats[root.choice("source_format", kSourceFormats)];
  manifest.generator = root.text("generator", kMaxText);
  manifest.vision = read_vision(root.object("vision"), root.object("projector"));
  manifest.llm = read_language_model(root.object("llm"));
  const DecoderFacts& llm = manifest.llm.decoder;
  manifest.vision.output_size = llm.hidden_size;
  if (!root.is_null("flash")) manifest.flash = read_flash(root.object("flash"), manifest.vision);
  manifest.tiling = read_tiling(root.object("tiling"), manifest.vision);
  manifest.prompt = read_prompt(root.object("prompt"), llm.vocab_size);
  manifest.precision = read_precision(root.object("precision"), manifest.vision, llm);
  manifest.files = read_files(root, where);
  root.finish();
  return manifest;
}

}  // namespace

std::string_view name_of(Precision precision) { return kPrecisions[static_cast<std::size_t>(precision)]; }

const FileEntry* Manifest::file(std::string_view wanted) const {
  const auto found = std::ranges::find(files, wanted, &FileEntry::name);
  return found == files.end() ? nullptr : &*found;
}

Manifest parse_manifest(std::string json, const std::string& where) {
  try {
    const json::Document document(std::move(json));
    return read_root(document.root(), where);
  } catch (const json::SyntaxError& error) {
    throw BundleError(where + ": " + error.what() + " Export the bundle again.");
  }
}

std::string read_manifest(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / kManifestFile;
  const auto file = RegularFile::open(path);
  if (!file) {
    throw BundleError(folder.string() + ": is not a bundle: it has no " + std::string(kManifestFile) + ".",
                      ErrorCode::no_bundle);
  }
  if (file->size() > kMaxManifestBytes) {
    throw BundleError(path.string() + ": is larger than " + std::to_string(kMaxManifestBytes) +
                      " bytes, which no manifest is. Export it again.");
  }
  return file->read(0, static_cast<std::size_t>(file->size()));
}

}  // namespace internvl
