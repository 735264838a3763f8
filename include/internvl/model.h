// The C++ API: a model, and answers to questions about pictures. Header-only, over the C API of
// <internvl/c.h>, so that compiler and standard library need not be those of the library. C++17; the examples
// that name options as {.threads = 4} need C++20.
//
//   #include <internvl/model.h>
//   internvl::Model model = internvl::Model::load("out/", {.threads = 4});
//   internvl::Answer answer = model.chat("What is on the table?", {internvl::Image::rgb(data, width,
//   height)});
#pragma once

#include <internvl/answer.h>
#include <internvl/c.h>
#include <internvl/error.h>
#include <internvl/image.h>
#include <internvl/question.h>
#include <internvl/session.h>
#include <internvl/stream.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace internvl {
inline namespace api0 {

/// The version of the library that is linked, such as "1.2.3".
inline std::string version() { return internvl_version(); }

/// How a bundle is loaded. What is not given is chosen from the model and the machine.
struct LoadOptions {
  std::optional<int> threads = {};  ///< that compute; one for each physical core that may be used
  std::optional<std::int64_t> cache_tokens = {};  ///< of the KV cache, all answers together
  std::optional<std::string> cache_type = {};     ///< "float32", "float16", "bfloat16" or "int8"
  std::optional<std::int64_t> max_context = {};   ///< tokens that one prompt and its answer may have
  std::int64_t max_waiting = 256;                 ///< requests that wait before one is refused (BusyError)
  double max_wait_s = 300.0;                      ///< how long a request waits for room in the cache
  bool verify = false;  ///< checks the SHA-256 of the weights, which reads all of them
  /// What the features of tiles may take that are kept for pictures that show them again; 0 keeps none. Where
  /// it is not given: two pictures of the model's most tiles, 64 MB at least, and a sixteenth of the memory
  /// at hand at most.
  std::optional<std::int64_t> tile_cache_bytes = {};
  /// 0 to 255. 0: a tile is known again if its pixels are equal. Else also if none of them differs by more
  /// from the tile that was encoded at its place in one of the last four pictures of the same grid: answers
  /// then depend on those pictures.
  int frame_tolerance = 0;
  /// Tokens of the KV cache that may keep what was computed for calls that are over: one whose prompt begins
  /// as theirs did, pictures included, does not compute it again. Whatever a call needs it gets. 0: nothing
  /// is kept; where it is not given, all of the cache.
  std::optional<std::int64_t> prefix_cache_tokens = {};
};

/// A bundle in memory. May be used from several threads: their answers are written together, and none depends
/// on the others. Copies are the same model, which is freed with the last of them.
class Model {
 public:
  /// Loads the bundle in a folder that `internvl-rt export` wrote.
  /// Throws BundleError if it is incomplete or altered, DeviceError if this machine lacks the memory or an
  /// instruction set, PromptError if an option is out of range.
  static Model load(const std::string& folder, const LoadOptions& options = {}) {
    internvl_load_options all;
    internvl_load_options_init(&all, sizeof all);
    // 0 says in C that none is given.
    const auto number = [](auto given) -> std::int64_t { return !given ? 0 : *given == 0 ? -1 : *given; };
    all.threads = number(options.threads);
    all.cache_tokens = number(options.cache_tokens);
    all.cache_type = options.cache_type ? options.cache_type->c_str() : nullptr;
    all.max_context = number(options.max_context);
    all.max_waiting = options.max_waiting;
    all.max_wait_s = options.max_wait_s;
    // -1 says in C that none is given.
    const auto unless_none = [](std::optional<std::int64_t> given) -> std::int64_t {
      return !given ? -1 : *given == -1 ? -2 : *given;
    };
    all.tile_cache_bytes = unless_none(options.tile_cache_bytes);
    all.prefix_cache_tokens = unless_none(options.prefix_cache_tokens);
    all.verify = options.verify ? 1 : 0;
    all.frame_tolerance = options.frame_tolerance;
    internvl_model* model = nullptr;
    detail::check(internvl_model_load(folder.c_str(), &all, &model));
    return Model(model);
  }

  /// Answers a question: a text, in which <image> marks the place of a picture (put in front where it does
  /// not say), after the rounds of `options.history`. Throws PromptError if question, length or an option
  /// does not fit the model; ImageError if a picture has another layout; BusyError if too many requests wait;
  /// CacheFullError if others kept the room that this one needs for longer than `max_wait_s`, or it needs
  /// more than there is; ClosedError after close().
  Answer chat(std::string_view question, const std::vector<Image>& images = {},
              const AskOptions& options = {}) const {
    return all_of(detail::question_of(question, images, options), options, 1).front();
  }
  /// The same of messages.
  Answer chat(const std::vector<Message>& messages, const AskOptions& options = {}) const {
    return all_of(detail::question_of(messages, options), options, 1).front();
  }

  /// Answers so many times, 1 to 256: pictures are encoded once, the prompt is computed once, and the answers
  /// are written together. Answer i does not depend on how many there are. More than one need `do_sample`.
  std::vector<Answer> answers(std::string_view question, const std::vector<Image>& images, std::size_t number,
                              const AskOptions& options = {}) const {
    return all_of(detail::question_of(question, images, options), options, number);
  }

  /// Begins to answer, and returns at once; see chat().
  Stream stream(std::string_view question, const std::vector<Image>& images = {},
                const AskOptions& options = {}) const {
    return begin(detail::question_of(question, images, options), options);
  }
  /// The same of messages.
  Stream stream(const std::vector<Message>& messages, const AskOptions& options = {}) const {
    return begin(detail::question_of(messages, options), options);
  }

  /// Gives the text of an answer to `piece` while it is written; where that returns false, the answer ends.
  /// What `piece` throws ends it too.
  Answer stream(std::string_view question, const std::vector<Image>& images, const AskOptions& options,
                const std::function<bool(std::string_view)>& piece) const {
    return stream(question, images, options).read(piece);
  }

  /// Begins a conversation that goes on from one question to the next; see Session. `system` replaces the
  /// model's system message. Throws ClosedError after close().
  Session session(const std::optional<std::string>& system = {}) const {
    internvl_session* session = nullptr;
    detail::check(internvl_session_begin(model_.get(), system ? system->c_str() : nullptr,
                                         system ? system->size() : 0, &session));
    return Session(session);
  }

  /// Ends all requests with ClosedError. Calling it twice is fine.
  void close() const { detail::check(internvl_model_close(model_.get())); }

  /// The name of the checkpoint.
  std::string name() const { return info().name; }
  /// Tokens that the KV cache holds, all answers together.
  std::int64_t cache_tokens() const { return info().cache_tokens; }
  /// Tokens that one prompt and its answer may have.
  std::int64_t context_tokens() const { return info().context_tokens; }
  /// Bytes that the features of tiles may take which are kept for pictures that show them again.
  std::int64_t tile_cache_bytes() const { return info().tile_cache_bytes; }

 private:
  explicit Model(internvl_model* model) : model_(model, internvl_model_free) {}

  internvl_model_info info() const {
    internvl_model_info all = {};
    all.size = sizeof all;
    detail::check(internvl_model_get_info(model_.get(), &all));
    return all;
  }

  detail::RequestPointer ask(const detail::QuestionPointer& question, const AskOptions& options,
                             std::size_t answers, bool streamed) const {
    return detail::request_of(options, answers, streamed,
                              [&](const internvl_ask_options* all, internvl_request** request) {
                                return internvl_model_ask(model_.get(), question.get(), all, request);
                              });
  }

  std::vector<Answer> all_of(const detail::QuestionPointer& question, const AskOptions& options,
                             std::size_t number) const {
    return detail::answers_of(ask(question, options, number, false), number);
  }

  Stream begin(const detail::QuestionPointer& question, const AskOptions& options) const {
    return Stream(ask(question, options, 1, true));
  }

  std::shared_ptr<internvl_model> model_;
};

}  // namespace api0
}  // namespace internvl
