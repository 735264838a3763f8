#include "generation/token_chooser.h"

#include <limits>
#include <utility>

namespace internvl {
namespace {

// Minus infinity for every token that the form does not allow.
void mask(std::span<const float> logits, std::span<const std::uint8_t> allowed, std::vector<float>& masked) {
  masked.assign(logits.size(), -std::numeric_limits<float>::infinity());
  for (std::size_t byte = 0; byte * 8 < logits.size(); ++byte) {
    for (unsigned bits = allowed[byte]; bits != 0; bits &= bits - 1) {
      const std::size_t id = byte * 8 + static_cast<std::size_t>(__builtin_ctz(bits));
      if (id < logits.size()) masked[id] = logits[id];
    }
  }
}

}  // namespace

TokenChooser::TokenChooser(const GenerationSettings& settings, std::uint64_t seed, std::uint64_t index,
                           std::shared_ptr<Constraint> constraint)
    : draws_(settings.draws()),
      options_(settings.sampling),
      sampler_(index == 0 ? Sampler(seed) : Sampler(seed).fork(index)),
      constraint_(std::move(constraint)) {}

std::int64_t TokenChooser::choose(std::span<const float> logits) {
  if (constraint_ != nullptr) {
    mask(logits, constraint_->allowed(), masked_);
    logits = masked_;
  }
  const std::int64_t token = draws_ ? sampler_.sample(logits, options_, history_)
                                    : argmax(logits, options_.repetition_penalty, history_);
  take(token);
  return token;
}

std::optional<std::int64_t> TokenChooser::choose_forced() {
  if (constraint_ == nullptr) return std::nullopt;
  const std::optional<std::int64_t> token = constraint_->forced();
  if (!token) return std::nullopt;
  if (draws_) sampler_.skip();
  take(*token);
  return token;
}

void TokenChooser::take(std::int64_t token) {
  if (options_.repetition_penalty != 1.0F) history_.push_back(token);
  if (constraint_ != nullptr) constraint_->take(token);
}

}  // namespace internvl
