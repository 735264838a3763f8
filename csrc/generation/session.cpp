#include "generation/session.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <utility>

namespace internvl {
namespace {

// The turn that goes first: the oldest one but that with the newest picture, which goes last. The question,
// the last of them, stays.
std::size_t next_to_drop(std::span<const SessionTurn> turns) {
  std::size_t newest = turns.size();
  for (std::size_t i = 0; i < turns.size(); ++i) {
    if (!turns[i].pictures.empty()) newest = i;
  }
  return newest == 0 && turns.size() > 2 ? 1 : 0;
}

}  // namespace

Session::Session(std::shared_ptr<const PromptPlanner> planner, std::size_t context_tokens,
                 std::optional<std::string> system)
    : planner_(std::move(planner)), context_tokens_(context_tokens), system_(std::move(system)) {}

SessionPrompt Session::prompt(SessionTurn question, std::size_t max_new_tokens) const {
  SessionPrompt prompt;
  prompt.turns = turns_;
  prompt.turns.push_back(std::move(question));
  prompt.kept.resize(turns_.size());
  std::iota(prompt.kept.begin(), prompt.kept.end(), std::size_t{0});
  write(prompt);
  const std::size_t answer = std::min(max_new_tokens, context_tokens_ / 4);
  if (prompt.ids.size() + answer <= context_tokens_) return prompt;
  while (prompt.turns.size() > 1 && prompt.ids.size() + answer > context_tokens_ - context_tokens_ / 4) {
    const auto dropped = static_cast<std::ptrdiff_t>(next_to_drop(prompt.turns));
    prompt.turns.erase(prompt.turns.begin() + dropped);
    prompt.kept.erase(prompt.kept.begin() + dropped);
    ++prompt.dropped_turns;
    write(prompt);
  }
  return prompt;
}

void Session::write(SessionPrompt& prompt) const {
  Conversation conversation{{}, system_};
  prompt.pictures.clear();
  prompt.tiles.clear();
  for (std::size_t i = 0; i < prompt.turns.size(); ++i) {
    const SessionTurn& turn = prompt.turns[i];
    conversation.turns.push_back(turn.question);
    if (i + 1 < prompt.turns.size())
      conversation.turns.push_back({Role::assistant, {GeneratedTokens{turn.answer}}});
    prompt.pictures.insert(prompt.pictures.end(), turn.pictures.begin(), turn.pictures.end());
    prompt.tiles.insert(prompt.tiles.end(), turn.tiles.begin(), turn.tiles.end());
  }
  prompt.ids = planner_->render(conversation, prompt.tiles).input_ids;
}

void Session::add(SessionPrompt prompt, std::span<const std::int64_t> answer) {
  turns_ = std::move(prompt.turns);
  // Where the model wrote an image context token, no picture stands.
  std::copy_if(answer.begin(), answer.end(), std::back_inserter(turns_.back().answer),
               [&](std::int64_t id) { return id != planner_->image_context_id(); });
}

}  // namespace internvl
