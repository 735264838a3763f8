#include "api/question.h"

#include <cstddef>
#include <utility>

#include "api/arguments.h"
#include "generation/options.h"
#include "runtime/error.h"

namespace internvl::api {
namespace {

// The value of an enumeration whose numbers are 0 to `last`.
template <class Enum>
Enum named(std::int32_t number, Enum last, const char* name) {
  if (number >= 0 && number <= static_cast<std::int32_t>(last)) return static_cast<Enum>(number);
  throw PromptError(std::string(name) + " is " + std::to_string(number) + "; expected 0 to " +
                    std::to_string(static_cast<std::int32_t>(last)) + ".");
}

Conversation conversation_of(const internvl_question& question, bool as_one) {
  const std::size_t images = question.images.size();
  if (question.messages.empty()) {
    if (!question.text) throw PromptError("the question has neither a text nor messages. Give one of them.");
    if (as_one && !question.rounds.empty()) {
      throw PromptError("as_one is for a question that is a text without earlier rounds.");
    }
    return {read_question(*question.text, question.rounds, as_one ? 1 : images), question.system};
  }
  if (question.text || !question.rounds.empty() || as_one) {
    throw PromptError("a text, earlier rounds or as_one were given beside messages. Give one of the two.");
  }
  Conversation conversation = read_messages(question.messages, images);
  if (question.system) {
    if (conversation.system) {
      throw PromptError("the system message was given twice: by itself and as the first message. Give one.");
    }
    conversation.system = question.system;
  }
  return conversation;
}

KeepTokens keep_of(std::int32_t number) {
  switch (named(number, INTERNVL_KEEP_ALL, "keep_special_tokens")) {
    case INTERNVL_KEEP_GROUNDING:
      return KeepTokens::grounding;
    case INTERNVL_KEEP_TASK:
      return KeepTokens::task;
    case INTERNVL_KEEP_ALL:
      return KeepTokens::all;
    case INTERNVL_KEEP_NONE:
      break;
  }
  return KeepTokens::none;
}

}  // namespace

internvl_ask_options default_ask_options() {
  internvl_ask_options options{};
  const GenerationSettings own;
  options.size = sizeof options;
  options.max_new_tokens = static_cast<std::int64_t>(own.max_new_tokens);
  options.temperature = kTemperature.standard;
  options.top_p = kTopP.standard;
  options.top_k = own.sampling.top_k;
  options.repetition_penalty = kRepetitionPenalty.standard;
  options.answers = kAnswers.standard;
  options.priority = kPriority.standard;
  return options;
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

Asked asked_of(const internvl_question& question, const internvl_ask_options* given) {
  const internvl_ask_options all = taken(given, "internvl_ask_options", default_ask_options());
  Asked asked;
  if (all.answers > 1 && all.streamed != 0) {
    throw PromptError("several answers cannot be streamed. Ask for one, or wait for all.");
  }
  asked.as_one = all.as_one != 0;
  asked.images = question.images;
  asked.tiles = {unless_zero(all.max_tiles), detail_of(all.detail).value_or(Detail::automatic)};
  asked.settings.max_new_tokens = static_cast<std::size_t>(kMaxNewTokens.checked(all.max_new_tokens));
  asked.settings.do_sample = all.do_sample != 0;
  asked.settings.sampling = {static_cast<float>(kTemperature.checked(all.temperature)),
                             kTopK.checked(all.top_k), static_cast<float>(kTopP.checked(all.top_p)),
                             static_cast<float>(kRepetitionPenalty.checked(all.repetition_penalty))};
  asked.settings.stop = texts_of(all.stop, all.stop_count, "stop");
  asked.settings.keep = keep_of(all.keep_special_tokens);
  asked.settings.ignore_stop_tokens = all.ignore_stop_tokens != 0;
  asked.choices = texts_of(all.choices, all.choices_count, "choices");
  if (all.has_seed != 0) asked.seed = all.seed;
  asked.answers = static_cast<std::size_t>(kAnswers.checked(all.answers));
  asked.priority = static_cast<int>(kPriority.checked(all.priority));
  if (all.cache_salt_length > 0) {
    require_pointer(all.cache_salt, "cache_salt");
    // Byte by byte: what is repaired could become the same.
    asked.cache_salt.assign(all.cache_salt, all.cache_salt_length);
  }
  asked.streamed = all.streamed != 0;
  check(asked);
  asked.conversation = conversation_of(question, asked.as_one);
  return asked;
}

}  // namespace internvl::api
