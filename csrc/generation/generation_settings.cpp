#include "generation/generation_settings.h"

#include "generation/answer_text.h"
#include "runtime/error.h"
#include "runtime/quoted.h"

namespace internvl {

void check_stop(std::span<const std::string> stop) {
  for (const std::string& text : stop) {
    if (text.empty()) throw PromptError("stop must be texts of at least one character, not ''.");
  }
}

void check_choices(std::span<const std::string> choices) {
  for (const std::string& text : choices) {
    if (!text.empty() && stripped(text) == text) continue;
    throw PromptError("choices must be texts without white space around them, as answers are; found " +
                      quoted(text) + ".");
  }
}

}  // namespace internvl
