// The C ABI over LoadedModel: models, questions and requests.
#include <internvl/c.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "api/arguments.h"
#include "api/error_status.h"
#include "api/handles.h"
#include "api/loaded_model.h"
#include "api/question.h"
#include "generation/milliseconds.h"
#include "image/camera_formats.h"
#include "prompt/messages.h"
#include "runtime/error.h"

using internvl::PromptError;
using internvl::api::asked_of;
using internvl::api::default_ask_options;
using internvl::api::detail_of;
using internvl::api::give;
using internvl::api::guarded;
using internvl::api::require_pointer;
using internvl::api::RgbImage;
using internvl::api::taken;
using internvl::api::text_of;
using internvl::api::unless_zero;

namespace {

internvl_load_options default_load_options() {
  internvl_load_options options{};
  const internvl::api::LoadOptions own;
  options.size = sizeof options;
  options.max_waiting = own.max_waiting;
  options.max_wait_s = own.max_wait_s;
  options.tile_cache_bytes = -1;
  options.prefix_cache_tokens = -1;
  return options;
}

template <class Struct>
void init(Struct whole, Struct* out, std::size_t size) {
  if (out == nullptr) return;
  std::memset(static_cast<void*>(out), 0, size);
  std::memcpy(static_cast<void*>(out), &whole, std::min(size, sizeof whole));
  if (size >= sizeof(std::size_t)) out->size = size;
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
  if (all.prefix_cache_tokens != -1) options.prefix_cache_tokens = all.prefix_cache_tokens;
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

// The next event. A request that fails leaves its session.
std::optional<internvl::Event> event_of(internvl_request& own) {
  try {
    return own.request->next(std::chrono::hours(1));
  } catch (...) {
    own.turn = nullptr;
    throw;
  }
}

// Waits for a piece; the last one brings the answers.
void read_on(internvl_request& own) {
  own.piece = {};
  while (!own.ended) {
    std::optional<internvl::Event> event = event_of(own);
    if (!event) continue;
    if (auto* piece = std::get_if<internvl::Piece>(&*event)) {
      own.piece = std::move(*piece);
      return;
    }
    if (auto* end = std::get_if<internvl::Ended>(&*event)) {
      own.piece = std::move(end->rest);
      own.ended = true;
      if (const auto turn = std::move(own.turn)) turn->add(own.request->answers().front().token_ids);
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
  answer.reused_tokens = static_cast<std::int64_t>(own.usage.reused_tokens);
  answer.dropped_turns = static_cast<std::int64_t>(own.usage.dropped_turns);
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
    model->loaded->close();
  });
}

void internvl_model_free(internvl_model* model) { delete model; }

internvl_status internvl_model_get_info(const internvl_model* model, internvl_model_info* info) {
  return guarded([&] {
    require_pointer(model, "the model");
    internvl_model_info all{};
    all.name = model->loaded->manifest().name.c_str();
    all.cache_tokens = static_cast<std::int64_t>(model->loaded->cache_tokens());
    all.context_tokens = static_cast<std::int64_t>(model->loaded->context_tokens());
    all.tile_cache_bytes = static_cast<std::int64_t>(model->loaded->tile_cache_bytes());
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
    *request = std::make_unique<internvl_request>(model->loaded->ask(asked_of(*question, options))).release();
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
