// The form that an answer keeps while it is written.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

namespace internvl {

// Of one answer; one thread at a time uses it. What a call throws ends the answer.
class Constraint {
 public:
  Constraint() = default;
  virtual ~Constraint() = default;
  Constraint(const Constraint&) = delete;
  Constraint& operator=(const Constraint&) = delete;
  Constraint(Constraint&&) = delete;
  Constraint& operator=(Constraint&&) = delete;

  // The tokens that may come next, a bit each, the lowest of the first byte first: at least [vocab / 8]
  // bytes. Throws PromptError if none may. Valid until take().
  virtual std::span<const std::uint8_t> allowed() = 0;

  // The token that allowed() would leave, where it is a single one; none where the form cannot be kept, which
  // allowed() tells.
  virtual std::optional<std::int64_t> forced() = 0;

  // Goes on with a token that allowed() left.
  virtual void take(std::int64_t token) = 0;

  // Nothing can follow but the end of the answer.
  virtual bool complete() = 0;
};

}  // namespace internvl
