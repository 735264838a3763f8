#include <internvl/answer.h>
#include <internvl/error.h>
#include <internvl/image.h>
#include <internvl/model.h>
#include <internvl/question.h>
#include <internvl/session.h>
#include <internvl/stream.h>

internvl::Answer ask(const internvl::Model& model, const internvl::Image& image) {
  internvl::AskOptions options;
  options.max_tiles = 1;
  return model.chat("What is on the table?", {image}, options);
}

internvl::Answer go_on(internvl::Session& session) { return session.ask("And what else?"); }
