// A bundle that is loaded into the native engine, and what may be asked of it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "bundle/manifest.h"
#include "generation/cache_size.h"
#include "generation/generation_settings.h"
#include "generation/options.h"
#include "generation/prompt_planner.h"
#include "generation/request.h"
#include "generation/scheduler.h"
#include "generation/session.h"
#include "generation/tile_budget.h"
#include "generation/token_table.h"
#include "ops/cache_type.h"
#include "prompt/conversation.h"
#include "prompt/tokenizer.h"

namespace internvl::api {

// What is not given is chosen from the model and the machine.
struct LoadOptions {
  std::optional<std::int64_t> threads;
  std::optional<std::int64_t> cache_tokens;
  std::optional<CacheType> cache_type;
  std::optional<std::int64_t> max_context;
  std::int64_t max_waiting = kMaxWaiting.standard;
  double max_wait_s = kMaxWaitSeconds.standard;
  std::optional<std::int64_t> tile_cache_bytes;
  std::int64_t frame_tolerance = 0;
  std::optional<std::int64_t> prefix_cache_tokens;
  bool verify = false;
};

// RGB, 8 bits, [height, width, 3].
struct RgbImage {
  std::vector<std::uint8_t> pixels;
  std::int64_t width;
  std::int64_t height;
  double decode_ms = 0.0;
};

struct Asked {
  Conversation conversation;
  std::vector<std::shared_ptr<const RgbImage>> images;  // in the order of their places
  TileBudget tiles;
  bool as_one = false;  // all images stand in the one place that the conversation has
  GenerationSettings settings;
  std::vector<std::string> choices;  // the answer is one of these; none: any text
  std::optional<std::uint64_t> seed;
  std::size_t answers = kAnswers.standard;
  int priority = 0;
  std::string cache_salt;
  bool streamed = false;
  std::chrono::steady_clock::time_point begun = std::chrono::steady_clock::now();
};

// May be used from several threads.
class LoadedModel {
 public:
  // Throws BundleError, DeviceError, PromptError.
  LoadedModel(const std::filesystem::path& folder, const LoadOptions& options);

  const Manifest& manifest() const { return manifest_; }
  std::size_t cache_tokens() const { return size_.cache_tokens; }
  std::size_t context_tokens() const { return size_.context_tokens; }
  std::size_t tile_cache_bytes() const { return tile_cache_bytes_; }

  // Begins to answer. Throws PromptError, ImageError, BusyError, CacheFullError, ClosedError.
  std::shared_ptr<Request> ask(const Asked& asked);

  // A conversation that has not begun. `system`: replaces the system message. Throws ClosedError.
  Session session(std::optional<std::string> system) const;
  // Begins to answer the next question of a conversation, one turn, and gives the prompt that it makes. Its
  // pictures are cut before this returns. Throws as the other.
  std::shared_ptr<Request> ask(const Session& conversation, const Asked& asked, SessionPrompt& prompt);

  // Ends all requests with ClosedError, and waits until nobody uses the engine.
  void close();

 private:
  struct Parts;
  LoadedModel(const std::filesystem::path& folder, const LoadOptions& options, Parts parts);

  static Parts open(const std::filesystem::path& folder, const LoadOptions& options);
  // All but the prompt, with pictures that are still to be cut; `planned`: how they are.
  Question question_of(const Asked& asked, std::vector<PlannedPicture>& planned);
  std::vector<AnswerRequest> answers_of(const Asked& asked);
  std::shared_ptr<const TokenTable> token_table();

  Manifest manifest_;
  CacheSize size_;
  std::size_t tile_cache_bytes_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::shared_ptr<const PromptPlanner> planner_;
  Scheduler scheduler_;
  std::mutex table_mutex_;
  std::shared_ptr<const TokenTable> table_;  // made for the first choices
};

// Throws PromptError for what does not go together.
void check(const Asked& asked);

}  // namespace internvl::api
