#include "generation/options.h"

#include <string>

#include "runtime/error.h"

namespace internvl {
namespace {

std::string shown(double value) {
  std::string text = std::to_string(value);
  text.erase(text.find_last_not_of('0') + 1);
  return text + (text.ends_with('.') ? "0" : "");
}

}  // namespace

std::int64_t IntegerOption::checked(std::int64_t value) const {
  if (value >= least && value <= most) return value;
  throw PromptError(std::string(name) + " must be an integer from " + std::to_string(least) + " to " +
                    std::to_string(most) + ", not " + std::to_string(value) + ".");
}

double NumberOption::checked(double value) const {
  if (takes(value)) return value;
  throw PromptError(std::string(name) + " must be a number " + std::string(range) + ", not " + shown(value) +
                    ".");
}

}  // namespace internvl
