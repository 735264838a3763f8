// An answer while it is written.
#pragma once

#include <internvl/answer.h>
#include <internvl/c.h>
#include <internvl/error.h>
#include <internvl/question.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace internvl {
inline namespace api0 {
namespace detail {

struct FreeRequest {
  void operator()(internvl_request* request) const { internvl_request_free(request); }
};
using RequestPointer = std::unique_ptr<internvl_request, FreeRequest>;

inline std::vector<const char*> pointers_to(const std::vector<std::string>& texts) {
  std::vector<const char*> pointers;
  for (const std::string& text : texts) pointers.push_back(text.c_str());
  return pointers;
}

// Begins a request by `begin`, which is given the options and the place of the request and returns a status.
template <class Begin>
RequestPointer request_of(const AskOptions& options, std::size_t answers, bool streamed, Begin begin) {
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
  all.cache_salt = options.cache_salt.data();
  all.cache_salt_length = options.cache_salt.size();
  internvl_request* request = nullptr;
  check(begin(&all, &request));
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
  answer.usage = {all.tiles,         all.tiles_wanted, all.image_tokens,  all.prompt_tokens, all.new_tokens,
                  all.forced_tokens, all.cached_tiles, all.reused_tokens, all.dropped_turns};
  answer.timings = {all.decode_image_ms, all.tile_ms,        all.vit_ms,       all.projector_ms,
                    all.prefill_ms,      all.first_token_ms, all.per_token_ms, all.total_ms};
  return answer;
}

// Waits for so many answers.
inline std::vector<Answer> answers_of(const RequestPointer& request, std::size_t number) {
  check(internvl_request_wait(request.get()));
  std::vector<Answer> all;
  for (std::size_t i = 0; i < number; ++i) all.push_back(answer_of(request.get(), i));
  return all;
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

  /// Reads on to the end, and gives every text to `piece`; where that returns false, the answer ends. What
  /// `piece` throws leaves the rest unread.
  Answer read(const std::function<bool(std::string_view)>& piece) {
    bool wanted = true;
    while (const std::optional<Piece> one = next()) {
      if (!wanted || one->text.empty() || piece(one->text)) continue;
      wanted = false;
      cancel();
    }
    return *answer_;
  }

  /// The whole answer; null until next() has given none or the last piece.
  const Answer* answer() const { return answer_ ? &*answer_ : nullptr; }

 private:
  friend class Model;
  friend class Session;
  explicit Stream(detail::RequestPointer request) : request_(std::move(request)) {}

  detail::RequestPointer request_;
  std::optional<Answer> answer_;
};

}  // namespace api0
}  // namespace internvl
