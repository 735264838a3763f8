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

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
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
};

/// Which special tokens stay in an answer's text.
enum class KeepTokens {
  none = INTERNVL_KEEP_NONE,
  grounding = INTERNVL_KEEP_GROUNDING,  ///< <ref> <box> <quad> and their ends
  task = INTERNVL_KEEP_TASK,            ///< these, and those that a fine-tuning added
  all = INTERNVL_KEEP_ALL,
};

/// An earlier round of a conversation.
struct Round {
  std::string question;
  std::string answer;
};

/// What is asked beside question and pictures, and how the answer is generated.
struct AskOptions {
  std::int64_t max_new_tokens = 1024;      ///< the answer ends here at the latest
  bool do_sample = false;                  ///< tokens are drawn; else the likeliest is taken
  double temperature = 1.0;                ///< below 1 the likely tokens get likelier; 0 takes the likeliest
  double top_p = 1.0;                      ///< draws from the likeliest tokens of this probability together
  std::int64_t top_k = 50;                 ///< draws from this many likeliest tokens; 0: from all
  double repetition_penalty = 1.0;         ///< above 1, tokens that the answer has already get less likely
  std::optional<std::uint64_t> seed = {};  ///< the same seed, prompt and options draw the same answer
  std::vector<std::string> stop = {};      ///< texts that end the answer; they are not part of it
  std::vector<std::string> choices = {};   ///< the answer is one of these texts
  KeepTokens keep_special_tokens = KeepTokens::none;
  bool ignore_stop_tokens = false;         ///< goes on to max_new_tokens, for measuring
  std::optional<int> max_tiles = {};       ///< of every picture, 1 to 40, its thumbnail not counted
  Detail detail = Detail::automatic;       ///< where max_tiles is not given
  bool as_one = false;                     ///< all pictures stand in one place, as if they were one
  int priority = 0;                        ///< of requests that wait, higher ones come first: -1000 to 1000
  std::vector<Round> history = {};         ///< of a question that is a text; its pictures come first
  std::optional<std::string> system = {};  ///< replaces the model's system message
};

/// A picture in a message, and how closely it is looked at where not as the call says.
struct ImageItem {
  ImageItem(const Image& given,
            std::optional<Detail> closeness = std::nullopt)  // NOLINT: an image is an item
      : image(given), detail(closeness) {}

  Image image;
  std::optional<Detail> detail;
};

/// A message: texts and pictures in their order. An optional one of "system" comes first, then "user" and
/// "assistant" take turns; the last one is the user's.
struct Message {
  using Item = std::variant<std::string, ImageItem>;

  std::string role;
  std::vector<Item> items;
};

namespace detail {

struct FreeModel {
  void operator()(internvl_model* model) const { internvl_model_free(model); }
};
struct FreeQuestion {
  void operator()(internvl_question* question) const { internvl_question_free(question); }
};
struct FreeRequest {
  void operator()(internvl_request* request) const { internvl_request_free(request); }
};
using QuestionPointer = std::unique_ptr<internvl_question, FreeQuestion>;
using RequestPointer = std::unique_ptr<internvl_request, FreeRequest>;

inline QuestionPointer new_question() {
  internvl_question* question = nullptr;
  check(internvl_question_new(&question));
  return QuestionPointer(question);
}

inline void set_system(internvl_question* question, const AskOptions& options) {
  if (!options.system) return;
  check(internvl_question_set_system(question, options.system->data(), options.system->size()));
}

inline QuestionPointer question_of(std::string_view text, const std::vector<Image>& images,
                                   const AskOptions& options) {
  QuestionPointer question = new_question();
  check(internvl_question_set_text(question.get(), text.data(), text.size()));
  for (const Image& image : images) check(internvl_question_add_image(question.get(), &image.view()));
  for (const Round& round : options.history) {
    check(internvl_question_add_round(question.get(), round.question.data(), round.question.size(),
                                      round.answer.data(), round.answer.size()));
  }
  set_system(question.get(), options);
  return question;
}

inline QuestionPointer question_of(const std::vector<Message>& messages, const AskOptions& options) {
  QuestionPointer question = new_question();
  for (const Round& round : options.history) {
    check(internvl_question_add_round(question.get(), round.question.data(), round.question.size(),
                                      round.answer.data(), round.answer.size()));
  }
  for (const Message& message : messages) {
    check(internvl_question_begin_message(question.get(), message.role.c_str()));
    for (const Message::Item& item : message.items) {
      if (const auto* text = std::get_if<std::string>(&item)) {
        check(internvl_question_add_text_item(question.get(), text->data(), text->size()));
        continue;
      }
      const auto& picture = std::get<ImageItem>(item);
      const int closeness = picture.detail ? static_cast<int>(*picture.detail) : INTERNVL_DETAIL_UNSAID;
      check(internvl_question_add_image_item(question.get(), &picture.image.view(), closeness));
    }
  }
  set_system(question.get(), options);
  return question;
}

inline std::vector<const char*> pointers_to(const std::vector<std::string>& texts) {
  std::vector<const char*> pointers;
  for (const std::string& text : texts) pointers.push_back(text.c_str());
  return pointers;
}

inline RequestPointer ask(internvl_model* model, const QuestionPointer& question, const AskOptions& options,
                          std::size_t answers, bool streamed) {
  const std::vector<const char*> stop = pointers_to(options.stop);
  const std::vector<const char*> choices = pointers_to(options.choices);
  internvl_ask_options all;
  internvl_ask_options_init(&all, sizeof all);
  all.max_new_tokens = options.max_new_tokens;
  all.do_sample = options.do_sample ? 1 : 0;
  all.has_seed = options.seed ? 1 : 0;
  all.seed = options.seed.value_or(0);
  all.temperature = options.temperature;
  all.top_p = options.top_p;
  all.top_k = options.top_k;
  all.repetition_penalty = options.repetition_penalty;
  all.stop = stop.data();
  all.stop_count = stop.size();
  all.choices = choices.data();
  all.choices_count = choices.size();
  all.keep_special_tokens = static_cast<std::int32_t>(options.keep_special_tokens);
  all.ignore_stop_tokens = options.ignore_stop_tokens ? 1 : 0;
  if (options.max_tiles) {
    // 0 says in C that none is given; here it was.
    all.max_tiles = *options.max_tiles == 0 ? -1 : *options.max_tiles;
  }
  all.detail = static_cast<std::int32_t>(options.detail);
  all.as_one = options.as_one ? 1 : 0;
  all.answers = static_cast<std::int64_t>(answers);
  all.priority = options.priority;
  all.streamed = streamed ? 1 : 0;
  internvl_request* request = nullptr;
  check(internvl_model_ask(model, question.get(), &all, &request));
  return RequestPointer(request);
}

inline Answer answer_of(const internvl_request* request, std::size_t index) {
  internvl_answer all = {};
  all.size = sizeof all;
  check(internvl_request_get_answer(request, index, &all));
  Answer answer;
  answer.text.assign(all.text, all.text_length);
  answer.grounding_text.assign(all.grounding_text, all.grounding_text_length);
  answer.token_ids.assign(all.token_ids, all.token_ids + all.token_count);
  answer.finish_reason = static_cast<FinishReason>(all.finish_reason);
  answer.usage = {all.tiles,      all.tiles_wanted,  all.image_tokens, all.prompt_tokens,
                  all.new_tokens, all.forced_tokens, all.cached_tiles};
  answer.timings = {all.decode_image_ms, all.tile_ms,        all.vit_ms,       all.projector_ms,
                    all.prefill_ms,      all.first_token_ms, all.per_token_ms, all.total_ms};
  return answer;
}

}  // namespace detail

/// An answer as it is written, at most 64 tokens ahead of its reader. One thread reads it; any may cancel it.
/// Its end ends the request. It may outlive the Model, whose end it then tells by a ClosedError.
class Stream {
 public:
  /// Waits for the next piece; none once the answer is whole.
  /// Throws what ended the request: see Model::chat().
  std::optional<Piece> next() {
    if (answer_) return std::nullopt;
    internvl_piece all = {};
    all.size = sizeof all;
    detail::check(internvl_request_next(request_.get(), &all));
    if (all.last != 0) {
      answer_ = detail::answer_of(request_.get(), 0);
      if (all.token_count == 0 && all.text_length == 0) return std::nullopt;
    }
    Piece piece;
    piece.text.assign(all.text, all.text_length);
    piece.token_ids.assign(all.token_ids, all.token_ids + all.token_count);
    return piece;
  }

  /// Ends the answer at its next step. The pieces that are written go on to come, and then the answer, with
  /// FinishReason::cancelled unless it had ended. From any thread.
  void cancel() { internvl_request_cancel(request_.get()); }

  /// The whole answer; null until next() has given none or the last piece.
  const Answer* answer() const { return answer_ ? &*answer_ : nullptr; }

 private:
  friend class Model;
  explicit Stream(detail::RequestPointer request) : request_(std::move(request)) {}

  detail::RequestPointer request_;
  std::optional<Answer> answer_;
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
    if (options.tile_cache_bytes) {
      all.tile_cache_bytes = *options.tile_cache_bytes == -1 ? -2 : *options.tile_cache_bytes;
    }
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
    Stream pieces = stream(question, images, options);
    bool wanted = true;
    while (const std::optional<Piece> next = pieces.next()) {
      if (!wanted || next->text.empty() || piece(next->text)) continue;
      wanted = false;
      pieces.cancel();
    }
    return *pieces.answer();
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
  explicit Model(internvl_model* model) : model_(model, detail::FreeModel()) {}

  internvl_model_info info() const {
    internvl_model_info all = {};
    all.size = sizeof all;
    detail::check(internvl_model_get_info(model_.get(), &all));
    return all;
  }

  std::vector<Answer> all_of(const detail::QuestionPointer& question, const AskOptions& options,
                             std::size_t number) const {
    const detail::RequestPointer request = detail::ask(model_.get(), question, options, number, false);
    detail::check(internvl_request_wait(request.get()));
    std::vector<Answer> all;
    for (std::size_t i = 0; i < number; ++i) all.push_back(detail::answer_of(request.get(), i));
    return all;
  }

  Stream begin(const detail::QuestionPointer& question, const AskOptions& options) const {
    return Stream(detail::ask(model_.get(), question, options, 1, true));
  }

  std::shared_ptr<internvl_model> model_;
};

}  // namespace api0
}  // namespace internvl
