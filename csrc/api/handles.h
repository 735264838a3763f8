// What the handles of the C ABI point to, but for questions and sessions.
#pragma once

#include <internvl/c.h>

#include <filesystem>
#include <memory>
#include <utility>

#include "api/error_status.h"
#include "api/loaded_model.h"
#include "api/model_session.h"
#include "generation/request.h"

struct internvl_model {
  internvl_model(const std::filesystem::path& folder, const internvl::api::LoadOptions& options)
      : loaded(std::make_shared<internvl::api::LoadedModel>(folder, options)) {}

  std::shared_ptr<internvl::api::LoadedModel> loaded;
};

struct internvl_request {
  explicit internvl_request(std::shared_ptr<internvl::Request> begun) : request(std::move(begun)) {}
  explicit internvl_request(internvl::api::ModelSession::Answering begun)
      : request(std::move(begun.request)), turn(std::move(begun.turn)) {}
  internvl_request(const internvl_request&) = delete;
  internvl_request& operator=(const internvl_request&) = delete;
  internvl_request(internvl_request&&) = delete;
  internvl_request& operator=(internvl_request&&) = delete;
  ~internvl_request() {
    static_cast<void>(internvl::api::guarded([&] { request->cancel(); }));
  }

  std::shared_ptr<internvl::Request> request;
  std::unique_ptr<internvl::api::ModelSession::OpenTurn> turn;  // of a session, until it has ended
  internvl::Piece piece;                                        // the last one that was read
  bool ended = false;
};
