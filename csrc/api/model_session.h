// A session with a loaded model: one question at a time, from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>

#include "api/loaded_model.h"
#include "generation/request.h"
#include "generation/session.h"

namespace internvl::api {

// Made by begin() and fork().
class ModelSession : public std::enable_shared_from_this<ModelSession> {
  struct Private {};

 public:
  // A question that is being answered: the session takes no other one until this one's end.
  class OpenTurn {
   public:
    explicit OpenTurn(std::shared_ptr<ModelSession> session);
    // Where add() was not called, the question is not part of the conversation.
    ~OpenTurn();
    OpenTurn(const OpenTurn&) = delete;
    OpenTurn& operator=(const OpenTurn&) = delete;
    OpenTurn(OpenTurn&&) = delete;
    OpenTurn& operator=(OpenTurn&&) = delete;

    // The question is answered with these tokens, and is part of the conversation. To be called once.
    void add(std::span<const std::int64_t> answer);
    SessionPrompt& prompt() { return prompt_; }

   private:
    std::shared_ptr<ModelSession> session_;
    SessionPrompt prompt_;
  };

  struct Answering {
    std::shared_ptr<Request> request;
    std::unique_ptr<OpenTurn> turn;
  };

  // `system`: replaces the system message. Throws ClosedError if the model was closed.
  static std::shared_ptr<ModelSession> begin(const std::shared_ptr<LoadedModel>& model,
                                             std::optional<std::string> system);

  ModelSession(Private, std::weak_ptr<LoadedModel> model, Session conversation);

  // Begins to answer the next question. Throws as LoadedModel::ask(); PromptError if it is more than one
  // message of the user, if another question is being answered, or after close().
  Answering ask(const Asked& asked);

  // A branch of the conversation. Throws PromptError if a question is being answered, or after close().
  std::shared_ptr<ModelSession> fork() const;

  // Ends the conversation, and the answer that is being written. Calling it twice is fine.
  void close();

 private:
  void check_idle() const;

  const std::weak_ptr<LoadedModel> model_;
  mutable std::mutex mutex_;
  Session conversation_;  // stays as it is while a question is being answered
  bool answering_ = false;
  bool closed_ = false;
  std::shared_ptr<Request> request_;  // then, once it has begun
};

}  // namespace internvl::api
