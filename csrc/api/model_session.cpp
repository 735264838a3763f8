#include "api/model_session.h"

#include <utility>

#include "runtime/error.h"

namespace internvl::api {
namespace {

void check_turn(const Asked& asked) {
  if (asked.conversation.turns.size() != 1 || asked.conversation.system) {
    throw PromptError(
        "a session is asked one question at a time: one message of the user. Earlier rounds and the system "
        "message are what it has already; leave them out.");
  }
  if (asked.answers != 1) throw PromptError("a session has one answer to a question. Ask for one.");
}

}  // namespace

std::shared_ptr<ModelSession> ModelSession::begin(const std::shared_ptr<LoadedModel>& model,
                                                  std::optional<std::string> system) {
  return std::make_shared<ModelSession>(Private(), model, model->session(std::move(system)));
}

ModelSession::ModelSession(Private, std::weak_ptr<LoadedModel> model, Session conversation)
    : model_(std::move(model)), conversation_(std::move(conversation)) {}

ModelSession::Answering ModelSession::ask(const Asked& asked) {
  check_turn(asked);
  const std::shared_ptr<LoadedModel> model = model_.lock();
  if (model == nullptr) throw ClosedError("the model of this session was closed. Load it again.");
  {
    const std::lock_guard lock(mutex_);
    check_idle();
    answering_ = true;
  }
  auto turn = std::make_unique<OpenTurn>(shared_from_this());
  std::shared_ptr<Request> request = model->ask(conversation_, asked, turn->prompt());
  const std::lock_guard lock(mutex_);
  if (closed_) request->cancel();
  request_ = request;
  return {std::move(request), std::move(turn)};
}

std::shared_ptr<ModelSession> ModelSession::fork() const {
  const std::lock_guard lock(mutex_);
  check_idle();
  return std::make_shared<ModelSession>(Private(), model_, conversation_);
}

void ModelSession::close() {
  std::shared_ptr<Request> request;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    request = request_;
  }
  if (request != nullptr) request->cancel();
}

void ModelSession::check_idle() const {
  if (closed_) throw PromptError("this session was closed. Begin another one.");
  if (answering_) {
    throw PromptError(
        "this session is answering another question. Read its answer to the end or drop it; a fork is a "
        "branch to ask beside.");
  }
}

ModelSession::OpenTurn::OpenTurn(std::shared_ptr<ModelSession> session) : session_(std::move(session)) {}

ModelSession::OpenTurn::~OpenTurn() {
  const std::lock_guard lock(session_->mutex_);
  session_->answering_ = false;
  session_->request_ = nullptr;
}

void ModelSession::OpenTurn::add(std::span<const std::int64_t> answer) {
  const std::lock_guard lock(session_->mutex_);
  if (!session_->closed_) session_->conversation_.add(std::move(prompt_), answer);
}

}  // namespace internvl::api
