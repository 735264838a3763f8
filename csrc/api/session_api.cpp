// The C ABI over ModelSession.
#include <internvl/c.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "api/arguments.h"
#include "api/error_status.h"
#include "api/handles.h"
#include "api/model_session.h"
#include "api/question.h"

using internvl::api::guarded;
using internvl::api::ModelSession;
using internvl::api::require_pointer;

struct internvl_session {
  explicit internvl_session(std::shared_ptr<ModelSession> given) : own(std::move(given)) {}

  std::shared_ptr<ModelSession> own;
};

internvl_status internvl_session_begin(internvl_model* model, const char* system, size_t length,
                                       internvl_session** session) {
  return guarded([&] {
    require_pointer(model, "the model");
    require_pointer(session, "the place of the session");
    std::optional<std::string> replaced;
    if (system != nullptr || length > 0) {
      replaced = internvl::api::text_of(system, length, "the system message");
    }
    *session =
        std::make_unique<internvl_session>(ModelSession::begin(model->loaded, std::move(replaced))).release();
  });
}

internvl_status internvl_session_ask(internvl_session* session, const internvl_question* question,
                                     const internvl_ask_options* options, internvl_request** request) {
  return guarded([&] {
    require_pointer(session, "the session");
    require_pointer(question, "the question");
    require_pointer(request, "the place of the request");
    *request =
        std::make_unique<internvl_request>(session->own->ask(internvl::api::asked_of(*question, options)))
            .release();
  });
}

internvl_status internvl_session_fork(const internvl_session* session, internvl_session** branch) {
  return guarded([&] {
    require_pointer(session, "the session");
    require_pointer(branch, "the place of the branch");
    *branch = std::make_unique<internvl_session>(session->own->fork()).release();
  });
}

internvl_status internvl_session_close(internvl_session* session) {
  return guarded([&] {
    require_pointer(session, "the session");
    session->own->close();
  });
}

void internvl_session_free(internvl_session* session) { delete session; }
