// A conversation that goes on from one question to the next.
//
//   #include <internvl/model.h>
//   internvl::Session session = model.session();
//   internvl::Answer answer = session.ask("What is on the table?", {internvl::Image::rgb(data, width,
//   height)});
//   internvl::Answer again = session.ask("Which of them is red?");
#pragma once

#include <internvl/answer.h>
#include <internvl/c.h>
#include <internvl/error.h>
#include <internvl/image.h>
#include <internvl/question.h>
#include <internvl/stream.h>

#include <functional>
#include <memory>
#include <string_view>
#include <vector>

namespace internvl {
inline namespace api0 {

/// A conversation with a model; Model::session() begins one. What was computed for a question stays in the KV
/// cache, so that the next one computes only what it adds: `usage.reused_tokens` tells how much that was. The
/// cache is shared: where other calls need the room, the conversation is computed again when it goes on. The
/// answers do not depend on that. The tokens of an answer stay as they were generated, and the pictures as
/// they were cut into tiles: a later picture does not change them.
///
/// Where the conversation does not fit the context any more, its oldest questions are left out with their
/// answers; the one with the newest picture is the last to go, and the system message stays.
/// `usage.dropped_turns` tells how many there were.
///
/// One question is answered at a time; fork() gives a branch to ask beside. It may be called from any thread,
/// and outlive the Model, whose end it then tells by a ClosedError. A question that fails, or whose Stream
/// ends before it was read to the end, is not part of the conversation; one that is cancelled is, with what
/// was written of its answer.
class Session {
 public:
  /// Answers the next question; see Model::chat(). `options` are without `history` and `system`. Throws what
  /// that throws; PromptError too after close(), or if another question is being answered.
  Answer ask(std::string_view question, const std::vector<Image>& images = {},
             const AskOptions& options = {}) {
    return answer_to(detail::question_of(question, images, options), options);
  }
  /// The same of messages: one of the user.
  Answer ask(const std::vector<Message>& messages, const AskOptions& options = {}) {
    return answer_to(detail::question_of(messages, options), options);
  }

  /// Begins to answer the next question, and returns at once; see ask().
  Stream stream(std::string_view question, const std::vector<Image>& images = {},
                const AskOptions& options = {}) {
    return Stream(begin(detail::question_of(question, images, options), options, true));
  }
  /// The same of messages: one of the user.
  Stream stream(const std::vector<Message>& messages, const AskOptions& options = {}) {
    return Stream(begin(detail::question_of(messages, options), options, true));
  }

  /// Gives the text of an answer to `piece` while it is written; where that returns false, the answer ends.
  /// What `piece` throws ends it too, and the question is not part of the conversation.
  Answer stream(std::string_view question, const std::vector<Image>& images, const AskOptions& options,
                const std::function<bool(std::string_view)>& piece) {
    return stream(question, images, options).read(piece);
  }

  /// A branch: a session that goes on from the same conversation, independently of this one.
  /// Throws PromptError after close(), or if a question is being answered.
  Session fork() const {
    internvl_session* branch = nullptr;
    detail::check(internvl_session_fork(session_.get(), &branch));
    return Session(branch);
  }

  /// Ends the conversation, and the answer that is being written. Calling it twice is fine.
  void close() { detail::check(internvl_session_close(session_.get())); }

 private:
  friend class Model;
  struct Free {
    void operator()(internvl_session* session) const { internvl_session_free(session); }
  };

  explicit Session(internvl_session* session) : session_(session) {}

  detail::RequestPointer begin(const detail::QuestionPointer& question, const AskOptions& options,
                               bool streamed) {
    return detail::request_of(options, 1, streamed,
                              [&](const internvl_ask_options* all, internvl_request** request) {
                                return internvl_session_ask(session_.get(), question.get(), all, request);
                              });
  }

  Answer answer_to(const detail::QuestionPointer& question, const AskOptions& options) {
    return detail::answers_of(begin(question, options, false), 1).front();
  }

  std::unique_ptr<internvl_session, Free> session_;
};

}  // namespace api0
}  // namespace internvl
