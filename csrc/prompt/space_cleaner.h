// Taking away the spaces before punctuation, for tokenizers whose settings ask for it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace internvl {

// Cleans a text that comes in pieces by the rule of transformers' clean_up_tokenization: a list of
// replacements, one after the other, each over the whole text. Together the pieces are the cleaned whole
// text. Not for several threads at once.
class SpaceCleaner {
 public:
  SpaceCleaner();

  // Takes what comes next and returns what is certain by now.
  std::string push(std::string text);
  // The rest of the text.
  std::string finish();

 private:
  struct Step {
    std::string_view old_text;
    std::string_view new_text;
    std::string held;

    std::string push(std::string_view text);
    std::string finish();
  };

  std::vector<Step> steps_;
};

}  // namespace internvl
