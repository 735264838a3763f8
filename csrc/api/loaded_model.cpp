#include "api/loaded_model.h"

#include <cmath>
#include <numeric>
#include <random>
#include <string_view>
#include <utility>

#include "bundle/bundle.h"
#include "generation/choices.h"
#include "generation/milliseconds.h"
#include "generation/native_engine.h"
#include "generation/tile_cache.h"
#include "image/pixel_values.h"
#include "kernels/attention/attention.h"
#include "model/decoder.h"
#include "model/vision_encoder.h"
#include "ops/cpu/cpu_device.h"
#include "runtime/error.h"
#include "runtime/regular_file.h"
#include "runtime/thread_team.h"
#include "runtime/usable_resources.h"

namespace internvl::api {
namespace {

// Prompt tokens that are computed at once: it bounds the memory of activations.
constexpr std::size_t prefill_chunk = 256;

std::shared_ptr<const Tokenizer> read_tokenizer(const Bundle& bundle) {
  const std::filesystem::path path = bundle.file(kTokenizerFile);
  const auto file = RegularFile::open(path);
  if (!file) throw BundleError(path.string() + ": is not there. Export the bundle again.");
  const PromptFacts& prompt = bundle.manifest.prompt;
  try {
    return std::make_shared<Tokenizer>(file->read(0, file->size()),
                                       TokenizerOptions{prompt.task_ids, prompt.clean_up_spaces});
  } catch (const BundleError& error) {
    throw BundleError(path.string() + ": " + error.what() + " Export the bundle again.");
  }
}

std::shared_ptr<const PromptRenderer> make_renderer(const Bundle& bundle,
                                                    const std::shared_ptr<const Tokenizer>& tokenizer) {
  const Manifest& manifest = bundle.manifest;
  try {
    return std::make_shared<PromptRenderer>(tokenizer, manifest.prompt, manifest.vision.image_tokens());
  } catch (const BundleError& error) {
    throw BundleError(bundle.folder.string() + ": " + error.what() + " Export the bundle again.");
  }
}

std::uint64_t new_seed() {
  std::random_device device;
  return (std::uint64_t{device()} << 32U) | device();
}

void check(const LoadOptions& options) {
  if (options.threads) kThreads.checked(*options.threads);
  kMaxWaiting.checked(options.max_waiting);
  kMaxWaitSeconds.checked(options.max_wait_s);
  if (options.prefix_cache_tokens) kPrefixCacheTokens.checked(*options.prefix_cache_tokens);
}

}  // namespace

void check(const Asked& asked) {
  const GenerationSettings& settings = asked.settings;
  check_stop(settings.stop);
  check_choices(asked.choices);
  if (!asked.choices.empty() && settings.ignore_stop_tokens) {
    throw PromptError("choices end the answer, and ignore_stop_tokens does not let them. Give one.");
  }
  if (asked.answers > 1 && !settings.draws()) {
    throw PromptError(std::to_string(asked.answers) +
                      " answers without do_sample would be the same. Set do_sample, and a temperature above "
                      "0.");
  }
  if (asked.as_one && asked.images.empty()) {
    throw PromptError("as_one is for a question with at least one picture.");
  }
  asked.tiles.check();
}

struct LoadedModel::Parts {
  Bundle bundle;
  CacheSize size;
  std::size_t tile_cache_bytes;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const PromptRenderer> renderer;
  std::shared_ptr<ThreadTeam> team;
  std::shared_ptr<NativeEngine> engine;
};

LoadedModel::Parts LoadedModel::open(const std::filesystem::path& folder, const LoadOptions& options) {
  check(options);
  Parts parts{.bundle = open_bundle(folder, options.verify),
              .size = {},
              .tile_cache_bytes = 0,
              .tokenizer = nullptr,
              .renderer = nullptr,
              .team = nullptr,
              .engine = nullptr};
  const Manifest& manifest = parts.bundle.manifest;
  const DecoderFacts& decoder = manifest.llm.decoder;
  const CacheType cache_type = options.cache_type.value_or(
      default_cache_type(manifest.precision.llm, attends_in_bfloat16(features())));
  const std::uint64_t per_token =
      kv_bytes_per_token(decoder.layers, decoder.kv_heads, decoder.head_dim, cache_type);
  const std::optional<std::uint64_t> usable = usable_memory();
  parts.size = cache_size(decoder.rope, options.cache_tokens, options.max_context,
                          default_cache_tokens(decoder.rope.max_positions, per_token,
                                               manifest.file(kWeightsFile)->bytes, usable));
  parts.tile_cache_bytes = internvl::tile_cache_bytes(manifest, options.tile_cache_bytes, usable);
  check_frame_tolerance(options.frame_tolerance, parts.tile_cache_bytes);
  parts.tokenizer = read_tokenizer(parts.bundle);
  parts.renderer = make_renderer(parts.bundle, parts.tokenizer);
  if (usable) check_memory(parts.size.cache_tokens, per_token, *usable);
  const auto weights = parts.bundle.weights();
  parts.team = std::make_shared<ThreadTeam>(static_cast<int>(options.threads.value_or(0)));
  const auto device = std::make_shared<CpuDevice>(parts.team);
  parts.engine = std::make_shared<NativeEngine>(
      std::make_shared<Decoder>(decoder, weights, device,
                                DecoderOptions{parts.size.cache_tokens, cache_type, prefill_chunk}),
      std::make_shared<VisionEncoder>(manifest.vision, manifest.flash,
                                      make_normalisation(manifest.tiling.mean, manifest.tiling.deviation),
                                      weights, device),
      manifest.prompt.image_context_id);
  parts.size.cache_tokens = parts.engine->cache().tokens;
  return parts;
}

LoadedModel::LoadedModel(const std::filesystem::path& folder, const LoadOptions& options)
    : LoadedModel(folder, options, open(folder, options)) {}

LoadedModel::LoadedModel(const std::filesystem::path&, const LoadOptions& options, Parts parts)
    : manifest_(std::move(parts.bundle.manifest)),
      size_(parts.size),
      tile_cache_bytes_(parts.tile_cache_bytes),
      tokenizer_(parts.tokenizer),
      planner_(
          std::make_shared<PromptPlanner>(parts.tokenizer, parts.renderer, manifest_, size_.context_tokens)),
      scheduler_(
          parts.engine, parts.tokenizer, manifest_, parts.team,
          SchedulerOptions{
              size_.context_tokens, static_cast<std::size_t>(options.max_waiting),
              std::chrono::milliseconds(static_cast<std::int64_t>(std::ceil(options.max_wait_s * 1000.0))),
              tile_cache_bytes_, static_cast<int>(options.frame_tolerance),
              static_cast<std::size_t>(
                  options.prefix_cache_tokens.value_or(static_cast<std::int64_t>(size_.cache_tokens)))}) {}

std::shared_ptr<Request> LoadedModel::ask(const Asked& asked) {
  std::vector<PlannedPicture> planned;
  Question question = question_of(asked, planned);
  question.ids = planner_->render(asked.conversation, tiles_of_places(planned, asked.as_one)).input_ids;
  planner_->check_length(question.ids, tiles_of_places(planned, false));
  return scheduler_.submit(std::move(question));
}

Session LoadedModel::session(std::optional<std::string> system) const {
  scheduler_.check_open();
  return {planner_, size_.context_tokens, std::move(system)};
}

std::shared_ptr<Request> LoadedModel::ask(const Session& conversation, const Asked& asked,
                                          SessionPrompt& prompt) {
  std::vector<PlannedPicture> planned;
  Question question = question_of(asked, planned);
  SessionTurn turn{asked.conversation.turns.back(), {}, tiles_of_places(planned, asked.as_one), {}};
  const auto begun = std::chrono::steady_clock::now();
  for (Picture& picture : question.pictures) {
    turn.pictures.push_back(scheduler_.cut(std::move(picture), question.cache_salt));
  }
  if (!planned.empty()) question.timings.tile = milliseconds_since(begun);
  prompt = conversation.prompt(std::move(turn), asked.settings.max_new_tokens);
  planner_->check_length(prompt.ids, prompt.tiles);
  const auto tiles = std::accumulate(prompt.tiles.begin(), prompt.tiles.end(), std::int64_t{0});
  const std::size_t earlier = static_cast<std::size_t>(tiles) - question.usage.tiles;
  question.usage.tiles += earlier;
  question.usage.tiles_wanted += earlier;
  question.usage.dropped_turns = prompt.dropped_turns;
  question.ids = prompt.ids;
  question.pictures = prompt.pictures;
  return scheduler_.submit(std::move(question));
}

void LoadedModel::close() { scheduler_.close(); }

Question LoadedModel::question_of(const Asked& asked, std::vector<PlannedPicture>& planned) {
  check(asked);
  scheduler_.check_open();
  const TilingOptions& tiling = manifest_.tiling.options;
  const std::vector<int> most =
      most_tiles(asked.tiles, asked.conversation, asked.images.size(), asked.as_one, tiling.max_tiles);
  Question question;
  for (std::size_t i = 0; i < asked.images.size(); ++i) {
    const RgbImage& image = *asked.images[i];
    const int tiles = count_tiles(image.width, image.height, tiling, most[i]);
    planned.push_back({image.width, image.height, most[i], tiles});
    question.usage.tiles_wanted += static_cast<std::size_t>(tiles);
    question.timings.decode_image += image.decode_ms;
  }
  if (!asked.tiles.max_tiles) {
    planner_->fit(planned, {&asked.conversation, 1}, asked.as_one, asked.settings.max_new_tokens);
  }
  for (std::size_t i = 0; i < planned.size(); ++i) {
    const std::shared_ptr<const RgbImage>& image = asked.images[i];
    Picture picture;
    picture.pixels = {image->pixels.data(), image->height, image->width, image->width * 3};
    picture.tiling = with_at_most(tiling, planned[i].max_tiles);
    picture.owner = image;
    question.pictures.push_back(std::move(picture));
    question.usage.tiles += static_cast<std::size_t>(planned[i].tiles);
  }
  question.answers = answers_of(asked);
  question.asked = asked.begun;
  question.priority = asked.priority;
  question.cache_salt = asked.cache_salt;
  question.streamed = asked.streamed;
  return question;
}

std::vector<AnswerRequest> LoadedModel::answers_of(const Asked& asked) {
  const std::uint64_t seed = asked.seed ? *asked.seed : new_seed();
  std::vector<AnswerRequest> answers(asked.answers);
  for (std::size_t i = 0; i < answers.size(); ++i) {
    answers[i].settings = asked.settings;
    answers[i].seed = seed;
    answers[i].index = i;
    if (asked.choices.empty()) continue;
    answers[i].constraint =
        std::make_shared<Choices>(tokenizer_, token_table(), asked.choices, manifest_.prompt.stop_ids);
  }
  return answers;
}

std::shared_ptr<const TokenTable> LoadedModel::token_table() {
  const std::lock_guard lock(table_mutex_);
  if (table_ == nullptr) {
    table_ = std::make_shared<TokenTable>(*tokenizer_, manifest_.llm.decoder.vocab_size);
  }
  return table_;
}

}  // namespace internvl::api
