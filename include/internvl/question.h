// What a model is asked: options, and messages of texts and pictures.
#pragma once

#include <internvl/c.h>
#include <internvl/error.h>
#include <internvl/image.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace internvl {
inline namespace api0 {

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
  /// What is computed for this call is reused for calls with the same salt only. Give every user one of their
  /// own where they must not learn from the time of an answer what others have asked.
  std::string cache_salt = {};
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

struct FreeQuestion {
  void operator()(internvl_question* question) const { internvl_question_free(question); }
};
using QuestionPointer = std::unique_ptr<internvl_question, FreeQuestion>;

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

}  // namespace detail
}  // namespace api0
}  // namespace internvl
