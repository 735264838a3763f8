// A conversation that goes on from one question to the next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "generation/picture_encoder.h"
#include "generation/prompt_planner.h"
#include "prompt/conversation.h"

namespace internvl {

// What a session remembers of a question: its words, its pictures as they were cut into tiles, and the tokens
// of its answer as they were generated. Nothing of the cache: what was computed for the last prompt is found
// there by what the next one begins with.
struct SessionTurn {
  Turn question;
  std::vector<Picture> pictures;
  std::vector<std::int64_t> tiles;   // of every image place of the question
  std::vector<std::int64_t> answer;  // token ids
};

// The prompt of a question to a session.
struct SessionPrompt {
  std::vector<std::int64_t> ids;    // [n]
  std::vector<Picture> pictures;    // in the order of their places
  std::vector<std::int64_t> tiles;  // of every image place
  std::vector<SessionTurn> turns;   // that are in it; the question is the last one
  std::vector<std::size_t> kept;    // their numbers among the session's turns, the question's left out
  std::size_t dropped_turns = 0;
};

// A copy is a branch of the conversation: the two go on independently. For one thread at a time.
class Session {
 public:
  // `system`: replaces the system message. `context_tokens`: a prompt and its answer end here.
  Session(std::shared_ptr<const PromptPlanner> planner, std::size_t context_tokens,
          std::optional<std::string> system);

  // What the model is asked with `question`, a turn without its answer. Where prompt and answer, or a quarter
  // of the context for it, would not fit the context, turns are left out, the oldest first, until a quarter
  // more is free: what follows one that was left out has to be computed again, so that it is done seldom. The
  // turn with the newest picture is the last to go; the system message stays. Throws PromptError as
  // PromptPlanner::render().
  SessionPrompt prompt(SessionTurn question, std::size_t max_new_tokens) const;

  // The prompt was answered with these tokens: the next question is asked after it.
  void add(SessionPrompt prompt, std::span<const std::int64_t> answer);

  const std::vector<SessionTurn>& turns() const { return turns_; }

 private:
  void write(SessionPrompt& prompt) const;

  std::shared_ptr<const PromptPlanner> planner_;
  std::size_t context_tokens_;
  std::optional<std::string> system_;
  std::vector<SessionTurn> turns_;
};

}  // namespace internvl
