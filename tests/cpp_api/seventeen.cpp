#include <internvl/answer.h>
#include <internvl/error.h>
#include <internvl/image.h>
#include <internvl/model.h>

internvl::Answer ask(const internvl::Model& model, const internvl::Image& image) {
  internvl::AskOptions options;
  options.max_tiles = 1;
  return model.chat("What is on the table?", {image}, options);
}
