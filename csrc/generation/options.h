// The numbers that a load, a question and an answer take: their ranges, and what they are where nobody says.
// Each is called what the C ABI and Python call it.
#pragma once

#include <cstdint>
#include <limits>
#include <string_view>

namespace internvl {

inline constexpr std::int64_t kMostInteger = std::numeric_limits<std::int32_t>::max();

struct IntegerOption {
  std::string_view name;
  std::int64_t least;
  std::int64_t most;
  std::int64_t standard;

  // Throws PromptError if it is out of range.
  std::int64_t checked(std::int64_t value) const;
};

struct NumberOption {
  std::string_view name;
  double least;
  bool takes_least;
  double most;
  double standard;
  std::string_view range;  // in words

  bool takes(double value) const { return (takes_least ? value >= least : value > least) && value <= most; }
  // Throws PromptError if it is out of range.
  double checked(double value) const;
};

inline constexpr double kMostNumber = std::numeric_limits<float>::max();

// Of a load.
inline constexpr IntegerOption kThreads{"threads", 1, 1024, 1};  // without one, the machine says how many
inline constexpr IntegerOption kMaxWaiting{"max_waiting", 1, kMostInteger, 256};
inline constexpr NumberOption kMaxWaitSeconds{"max_wait_s", 0.0, true, 1e9, 300.0, "of seconds, 0 or more"};
// Without one, all of the cache.
inline constexpr IntegerOption kPrefixCacheTokens{"prefix_cache_tokens", 0, kMostInteger, 0};

// Of a question.
inline constexpr IntegerOption kAnswers{"answers", 1, 256, 1};
inline constexpr IntegerOption kPriority{"priority", -1000, 1000, 0};

// Of an answer; top_k is as transformers has it.
inline constexpr IntegerOption kMaxNewTokens{"max_new_tokens", 1, kMostInteger, 1024};
inline constexpr IntegerOption kTopK{"top_k", 0, kMostInteger, 50};
inline constexpr NumberOption kTemperature{"temperature", 0.0, true, kMostNumber, 1.0, "of at least 0"};
inline constexpr NumberOption kTopP{"top_p", 0.0, false, 1.0, 1.0, "above 0 and at most 1"};
inline constexpr NumberOption kRepetitionPenalty{"repetition_penalty", 0.0, false,
                                                 kMostNumber,          1.0, "above 0"};

}  // namespace internvl
