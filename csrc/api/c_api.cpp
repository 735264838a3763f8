// The C ABI over LoadedModel: handles, sized structures, and exceptions to statuses.
#include <internvl/c.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "api/error_status.h"
#include "api/loaded_model.h"
#include "generation/milliseconds.h"
#include "generation/options.h"
#include "image/camera_formats.h"
#include "prompt/messages.h"
#include "runtime/error.h"
#include "runtime/quoted.h"
#include "runtime/utf8.h"

using internvl::PromptError;
using internvl::api::Asked;
using internvl::api::guarded;
using internvl::api::LoadedModel;
using internvl::api::RgbImage;

struct internvl_model {
  internvl_model(const std::filesystem::path& folder, const internvl::api::LoadOptions& options)
      : loaded(folder, options) {}

  LoadedModel loaded;
};

struct internvl_question {
  // A text with what stands around it, or messages.
  std::optional<std::string> text;
  std::vector<internvl::Exchange> rounds;
  std::optional<std::string> system;
  std::vector<internvl::Message> messages;
  std::vector<std::shared_ptr<const RgbImage>> images;
};

struct internvl_request {
  explicit internvl_request(std::shared_ptr<internvl::Request> begun) : request(std::move(begun)) {}
  internvl_request(const internvl_request&) = delete;
  internvl_request& operator=(const internvl_request&) = delete;
  internvl_request(internvl_request&&) = delete;
  internvl_request& operator=(internvl_request&&) = delete;
  ~internvl_request() {
    static_cast<void>(guarded([&] { request->cancel(); }));
  }

  std::shared_ptr<internvl::Request> request;
  internvl::Piece piece;  // the last one that was read
  bool ended = false;
};

namespace {

using internvl::Detail;

[[noreturn]] void throw_newer(const char* name, std::size_t size) {
  throw internvl::Error(std::string(name) + " has " + std::to_string(size) +
                        " bytes, which this version of the library (" + internvl_version() +
                        ") does not know. Set its size, and use the headers that came with the library.");
}

template <class Type>
void require_pointer(Type* given, const char* name) {
  if (given == nullptr) throw internvl::Error(std::string(name) + " is NULL.");
}

// What the caller gave, in a structure of today's size; the rest is as `whole` has it.
template <class Struct>
Struct taken(const Struct* given, const char* name, Struct whole) {
  if (given == nullptr) return whole;
  if (given->size < sizeof(std::size_t) || given->size > sizeof(Struct)) throw_newer(name, given->size);
  std::memcpy(&whole, given, given->size);
  return whole;
}

// Writes as much as the caller's structure has, and leaves its size as it is.
template <class Struct>
void give(const Struct& whole, Struct* out, const char* name) {
  require_pointer(out, name);
  const std::size_t size = out->size;
  if (size < sizeof(std::size_t) || size > sizeof(Struct)) throw_newer(name, size);
  std::memcpy(out, &whole, size);
  out->size = size;
}

internvl_load_options default_load_options() {
  internvl_load_options options{};
  const internvl::api::LoadOptions own;
  options.size = sizeof options;
  options.max_waiting = own.max_waiting;
  options.max_wait_s = own.max_wait_s;
  options.tile_cache_bytes = -1;
  return options;
}

internvl_ask_options default_ask_options() {
  internvl_ask_options options{};
  const internvl::GenerationSettings own;
  options.size = sizeof options;
  options.max_new_tokens = static_cast<std::int64_t>(own.max_new_tokens);
  options.temperature = internvl::kTemperature.standard;
  options.top_p = internvl::kTopP.standard;
  options.top_k = own.sampling.top_k;
  options.repetition_penalty = internvl::kRepetitionPenalty.standard;
  options.answers = internvl::kAnswers.standard;
  options.priority = internvl::kPriority.standard;
  return options;
}

template <class Struct>
void init(Struct whole, Struct* out, std::size_t size) {
  if (out == nullptr) return;
  std::memset(static_cast<void*>(out), 0, size);
  std::memcpy(static_cast<void*>(out), &whole, std::min(size, sizeof whole));
  if (size >= sizeof(std::size_t)) out->size = size;
}

std::string text_of(const char* text, std::size_t length, const char* name) {
  if (text == nullptr && length > 0) require_pointer(text, name);
  return internvl::utf8::repaired(std::string_view(text == nullptr ? "" : text, length));
}

std::string text_of(const char* text, const char* name) {
  require_pointer(text, name);
  return internvl::utf8::repaired(text);
}

std::vector<std::string> texts_of(const char* const* texts, std::size_t count, const char* name) {
  std::vector<std::string> all;
  all.reserve(count);
  if (count > 0) require_pointer(texts, name);
  for (std::size_t i = 0; i < count; ++i) all.push_back(text_of(texts[i], name));
  return all;
}

// The value of an enumeration whose numbers are 0 to `last`.
template <class Enum>
Enum named(std::int32_t number, Enum last, const char* name) {
  if (number >= 0 && number <= static_cast<std::int32_t>(last)) return static_cast<Enum>(number);
  throw PromptError(std::string(name) + " is " + std::to_string(number) + "; expected 0 to " +
                    std::to_string(static_cast<std::int32_t>(last)) + ".");
}

std::optional<Detail> detail_of(std::int32_t number) {
  switch (named(number, INTERNVL_DETAIL_UNSAID, "detail")) {
    case INTERNVL_DETAIL_AUTO:
      return Detail::automatic;
    case INTERNVL_DETAIL_LOW:
      return Detail::low;
    case INTERNVL_DETAIL_HIGH:
      return Detail::high;
    case INTERNVL_DETAIL_UNSAID:
      break;
  }
  return std::nullopt;
}

std::optional<std::int64_t> unless_zero(std::int64_t number) {
  return number == 0 ? std::nullopt : std::optional(number);
}

internvl::api::LoadOptions load_options_of(const internvl_load_options* given) {
  const internvl_load_options all = taken(given, "internvl_load_options", default_load_options());
  internvl::api::LoadOptions options;
  options.threads = unless_zero(all.threads);
  options.cache_tokens = unless_zero(all.cache_tokens);
  if (all.cache_type != nullptr) options.cache_type = internvl::cache_type_from(all.cache_type);
  options.max_context = unless_zero(all.max_context);
  options.max_waiting = all.max_waiting;
  options.max_wait_s = all.max_wait_s;
  options.frame_tolerance = all.frame_tolerance;
  if (all.tile_cache_bytes != -1) options.tile_cache_bytes = all.tile_cache_bytes;
  options.verify = all.verify != 0;
  return options;
}

std::shared_ptr<const RgbImage> image_of(const internvl_image* given) {
  require_pointer(given, "the image");
  const internvl_image all = taken(given, "internvl_image", internvl_image{});
  const auto begun = std::chrono::steady_clock::now();
  auto image = std::make_shared<RgbImage>();
  const auto check = [](std::int32_t value, std::int32_t last, const char* name) {
    if (value >= 0 && value <= last) return;
    throw internvl::ImageError(std::string("the ") + name + " is " + std::to_string(value) +
                               "; expected 0 to " + std::to_string(last) + ".");
  };
  check(all.format, INTERNVL_I420, "pixel format");
  check(all.yuv_matrix, INTERNVL_BT709, "matrix of YUV");
  check(all.yuv_range, INTERNVL_FULL_RANGE, "range of YUV");
  image->pixels = internvl::rgb_of({.data = all.data,
                                    .width = all.width,
                                    .height = all.height,
                                    .format = static_cast<internvl::PixelFormat>(all.format),
                                    .stride = all.stride,
                                    .chroma = all.chroma,
                                    .chroma_stride = all.chroma_stride,
                                    .chroma_v = all.chroma_v,
                                    .matrix = static_cast<internvl::YuvMatrix>(all.yuv_matrix),
                                    .range = static_cast<internvl::YuvRange>(all.yuv_range)});
  image->width = all.width;
  image->height = all.height;
  image->decode_ms = internvl::milliseconds_since(begun);
  return image;
}

std::vector<internvl::TurnPart>& items_of(internvl_question& question) {
  if (question.messages.empty()) {
    throw PromptError("an item was added before there was a message. Begin one first.");
  }
  return std::get<std::vector<internvl::TurnPart>>(question.messages.back().content);
}

internvl::Conversation conversation_of(const internvl_question& question, bool as_one) {
  const std::size_t images = question.images.size();
  if (question.messages.empty()) {
    if (!question.text) throw PromptError("the question has neither a text nor messages. Give one of them.");
    if (as_one && !question.rounds.empty()) {
      throw PromptError("as_one is for a question that is a text without earlier rounds.");
    }
    return {internvl::read_question(*question.text, question.rounds, as_one ? 1 : images), question.system};
  }
  if (question.text || !question.rounds.empty() || as_one) {
    throw PromptError("a text, earlier rounds or as_one were given beside messages. Give one of the two.");
  }
  internvl::Conversation conversation = internvl::read_messages(question.messages, images);
  if (question.system) {
    if (conversation.system) {
      throw PromptError("the system message was given twice: by itself and as the first message. Give one.");
    }
    conversation.system = question.system;
  }
  return conversation;
}

internvl::KeepTokens keep_of(std::int32_t number) {
  switch (named(number, INTERNVL_KEEP_ALL, "keep_special_tokens")) {
    case INTERNVL_KEEP_GROUNDING:
      return internvl::KeepTokens::grounding;
    case INTERNVL_KEEP_TASK:
      return internvl::KeepTokens::task;
    case INTERNVL_KEEP_ALL:
      return internvl::KeepTokens::all;
    case INTERNVL_KEEP_NONE:
      break;
  }
  return internvl::KeepTokens::none;
}

Asked asked_of(const internvl_question& question, const internvl_ask_options* given) {
  const internvl_ask_options all = taken(given, "internvl_ask_options", default_ask_options());
  Asked asked;
  if (all.answers > 1 && all.streamed != 0) {
    throw PromptError("several answers cannot be streamed. Ask for one, or wait for all.");
  }
  asked.as_one = all.as_one != 0;
  asked.images = question.images;
  asked.tiles = {unless_zero(all.max_tiles), detail_of(all.detail).value_or(Detail::automatic)};
  asked.settings.max_new_tokens =
      static_cast<std::size_t>(internvl::kMaxNewTokens.checked(all.max_new_tokens));
  asked.settings.do_sample = all.do_sample != 0;
  asked.settings.sampling = {
      static_cast<float>(internvl::kTemperature.checked(all.temperature)), internvl::kTopK.checked(all.top_k),
      static_cast<float>(internvl::kTopP.checked(all.top_p)),
      static_cast<float>(internvl::kRepetitionPenalty.checked(all.repetition_penalty))};
  asked.settings.stop = texts_of(all.stop, all.stop_count, "stop");
  asked.settings.keep = keep_of(all.keep_special_tokens);
  asked.settings.ignore_stop_tokens = all.ignore_stop_tokens != 0;
  asked.choices = texts_of(all.choices, all.choices_count, "choices");
  if (all.has_seed != 0) asked.seed = all.seed;
  asked.answers = static_cast<std::size_t>(internvl::kAnswers.checked(all.answers));
  asked.priority = static_cast<int>(internvl::kPriority.checked(all.priority));
  asked.streamed = all.streamed != 0;
  internvl::api::check(asked);
  asked.conversation = conversation_of(question, asked.as_one);
  return asked;
}

// Waits for a piece; the last one brings the answers.
void read_on(internvl_request& own) {
  using namespace std::chrono_literals;
  own.piece = {};
  while (!own.ended) {
    std::optional<internvl::Event> event = own.request->next(1h);
    if (!event) continue;
    if (auto* piece = std::get_if<internvl::Piece>(&*event)) {
      own.piece = std::move(*piece);
      return;
    }
    if (auto* end = std::get_if<internvl::Ended>(&*event)) {
      own.piece = std::move(end->rest);
      own.ended = true;
    }
  }
}

std::int32_t number_of(internvl::FinishReason reason) {
  switch (reason) {
    case internvl::FinishReason::stop:
      return INTERNVL_STOP;
    case internvl::FinishReason::length:
      return INTERNVL_LENGTH;
    case internvl::FinishReason::cancelled:
      break;
  }
  return INTERNVL_CANCELLED;
}

internvl_answer answer_of(const internvl::Answer& own) {
  internvl_answer answer{};
  answer.text = own.text.c_str();
  answer.text_length = own.text.size();
  answer.grounding_text = own.grounding_text.c_str();
  answer.grounding_text_length = own.grounding_text.size();
  answer.token_ids = own.token_ids.data();
  answer.token_count = own.token_ids.size();
  answer.finish_reason = number_of(own.finish_reason);
  answer.tiles = static_cast<std::int64_t>(own.usage.tiles);
  answer.tiles_wanted = static_cast<std::int64_t>(own.usage.tiles_wanted);
  answer.image_tokens = static_cast<std::int64_t>(own.usage.image_tokens);
  answer.prompt_tokens = static_cast<std::int64_t>(own.usage.prompt_tokens);
  answer.new_tokens = static_cast<std::int64_t>(own.usage.new_tokens);
  answer.forced_tokens = static_cast<std::int64_t>(own.usage.forced_tokens);
  answer.decode_image_ms = own.timings.decode_image;
  answer.tile_ms = own.timings.tile;
  answer.vit_ms = own.timings.vit;
  answer.projector_ms = own.timings.projector;
  answer.prefill_ms = own.timings.prefill;
  answer.first_token_ms = own.timings.first_token;
  answer.per_token_ms = own.timings.per_token;
  answer.total_ms = own.timings.total;
  answer.cached_tiles = static_cast<std::int64_t>(own.usage.cached_tiles);
  return answer;
}

}  // namespace

const char* internvl_version(void) { return INTERNVL_VERSION; }

const char* internvl_error_message(void) { return internvl::api::last_error_message(); }

void internvl_load_options_init(internvl_load_options* options, size_t size) {
  init(default_load_options(), options, size);
}

internvl_status internvl_model_load(const char* folder, const internvl_load_options* options,
                                    internvl_model** model) {
  return guarded([&] {
    require_pointer(folder, "the folder");
    require_pointer(model, "the place of the model");
    *model = std::make_unique<internvl_model>(folder, load_options_of(options)).release();
  });
}

internvl_status internvl_model_close(internvl_model* model) {
  return guarded([&] {
    require_pointer(model, "the model");
    model->loaded.close();
  });
}

void internvl_model_free(internvl_model* model) { delete model; }

internvl_status internvl_model_get_info(const internvl_model* model, internvl_model_info* info) {
  return guarded([&] {
    require_pointer(model, "the model");
    internvl_model_info all{};
    all.name = model->loaded.manifest().name.c_str();
    all.cache_tokens = static_cast<std::int64_t>(model->loaded.cache_tokens());
    all.context_tokens = static_cast<std::int64_t>(model->loaded.context_tokens());
    all.tile_cache_bytes = static_cast<std::int64_t>(model->loaded.tile_cache_bytes());
    give(all, info, "internvl_model_info");
  });
}

internvl_status internvl_question_new(internvl_question** question) {
  return guarded([&] {
    require_pointer(question, "the place of the question");
    *question = std::make_unique<internvl_question>().release();
  });
}

void internvl_question_free(internvl_question* question) { delete question; }

internvl_status internvl_question_set_text(internvl_question* question, const char* text, size_t length) {
  return guarded([&] {
    require_pointer(question, "the question");
    question->text = text_of(text, length, "the text");
  });
}

internvl_status internvl_question_add_image(internvl_question* question, const internvl_image* image) {
  return guarded([&] {
    require_pointer(question, "the question");
    if (!question->messages.empty()) {
      throw PromptError("images of messages are their items. Add it as one.");
    }
    question->images.push_back(image_of(image));
  });
}

internvl_status internvl_question_add_round(internvl_question* question, const char* asked,
                                            size_t asked_length, const char* answered,
                                            size_t answered_length) {
  return guarded([&] {
    require_pointer(question, "the question");
    question->rounds.push_back({text_of(asked, asked_length, "the earlier question"),
                                text_of(answered, answered_length, "the earlier answer")});
  });
}

internvl_status internvl_question_set_system(internvl_question* question, const char* text, size_t length) {
  return guarded([&] {
    require_pointer(question, "the question");
    question->system = text_of(text, length, "the system message");
  });
}

internvl_status internvl_question_begin_message(internvl_question* question, const char* role) {
  return guarded([&] {
    require_pointer(question, "the question");
    if (question->messages.empty() && !question->images.empty()) {
      throw PromptError("images of messages are their items. Add them there.");
    }
    question->messages.push_back({text_of(role, "the role"), std::vector<internvl::TurnPart>()});
  });
}

internvl_status internvl_question_add_text_item(internvl_question* question, const char* text,
                                                size_t length) {
  return guarded([&] {
    require_pointer(question, "the question");
    items_of(*question).emplace_back(text_of(text, length, "the text"));
  });
}

internvl_status internvl_question_add_image_item(internvl_question* question, const internvl_image* image,
                                                 int32_t detail) {
  return guarded([&] {
    require_pointer(question, "the question");
    std::vector<internvl::TurnPart>& items = items_of(*question);
    const internvl::ImagePlace place{detail_of(detail)};
    question->images.push_back(image_of(image));
    items.emplace_back(place);
  });
}

void internvl_ask_options_init(internvl_ask_options* options, size_t size) {
  init(default_ask_options(), options, size);
}

internvl_status internvl_model_ask(internvl_model* model, const internvl_question* question,
                                   const internvl_ask_options* options, internvl_request** request) {
  return guarded([&] {
    require_pointer(model, "the model");
    require_pointer(question, "the question");
    require_pointer(request, "the place of the request");
    *request = std::make_unique<internvl_request>(model->loaded.ask(asked_of(*question, options))).release();
  });
}

internvl_status internvl_request_next(internvl_request* request, internvl_piece* piece) {
  return guarded([&] {
    require_pointer(request, "the request");
    read_on(*request);
    internvl_piece all{};
    all.text = request->piece.text.c_str();
    all.text_length = request->piece.text.size();
    all.token_ids = request->piece.token_ids.data();
    all.token_count = request->piece.token_ids.size();
    all.last = request->ended ? 1 : 0;
    give(all, piece, "internvl_piece");
  });
}

internvl_status internvl_request_wait(internvl_request* request) {
  return guarded([&] {
    require_pointer(request, "the request");
    while (!request->ended) read_on(*request);
  });
}

void internvl_request_cancel(internvl_request* request) {
  if (request == nullptr) return;
  static_cast<void>(guarded([&] { request->request->cancel(); }));
}

void internvl_request_free(internvl_request* request) { delete request; }

internvl_status internvl_request_get_answer(const internvl_request* request, size_t index,
                                            internvl_answer* answer) {
  return guarded([&] {
    require_pointer(request, "the request");
    if (!request->ended) throw internvl::Error("the answer is not there yet. Wait for the last piece.");
    const std::vector<internvl::Answer>& answers = request->request->answers();
    if (index >= answers.size()) {
      throw internvl::Error("there is no answer " + std::to_string(index) + " among " +
                            std::to_string(answers.size()) + ".");
    }
    give(answer_of(answers[index]), answer, "internvl_answer");
  });
}
