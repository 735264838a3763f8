#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/conversations.h"
#include "bindings/gil.h"
#include "bindings/text.h"
#include "prompt/renderer.h"
#include "prompt/templates.h"

namespace internvl::bindings {
namespace {

namespace py = pybind11;

using Tiles = std::vector<std::int64_t>;

// An object with the fields of the manifest's `prompt`.
PromptFacts facts_of(const py::object& prompt) {
  return {.template_name = utf8_of(prompt.attr("template")),
          .system_message = optional_utf8_of(prompt.attr("system_message")),
          .image_context_id = prompt.attr("image_context_id").cast<std::int64_t>(),
          .bos_id = prompt.attr("bos_id").cast<std::optional<std::int64_t>>(),
          .stop_ids = prompt.attr("stop_ids").cast<std::vector<std::int64_t>>(),
          .prefix_ids = prompt.attr("prefix_ids").cast<std::vector<std::int64_t>>(),
          .task_ids = prompt.attr("task_ids").cast<std::vector<std::int64_t>>(),
          .clean_up_spaces = prompt.attr("clean_up_spaces").cast<bool>()};
}

}  // namespace

void register_renderer(py::module_& module) {
  py::class_<ConversationTemplate>(module, "ConversationTemplate")
      .def_readonly("name", &ConversationTemplate::name)
      .def_readonly("stop", &ConversationTemplate::stop)
      .def_property_readonly("control_tokens", [](const ConversationTemplate& found) {
        py::tuple tokens(found.control_tokens.size());
        for (std::size_t i = 0; i < found.control_tokens.size(); ++i) tokens[i] = found.control_tokens[i];
        return tokens;
      });
  py::dict templates;
  for (const ConversationTemplate& found : conversation_templates()) {
    templates[py::str(std::string(found.name))] = py::cast(found);
  }
  module.attr("TEMPLATES") = templates;

  py::class_<RenderedPrompt>(module, "RenderedPrompt", "A prompt with its image places expanded.")
      .def_property_readonly(
          "text", [](const RenderedPrompt& prompt) { return str_of(prompt.text); },
          "Control and image context tokens written out; what a tokenizer puts in front of a text is not in "
          "it.")
      .def_property_readonly(
          "input_ids",
          [](const py::object& self) {
            const auto& ids = self.cast<const RenderedPrompt&>().input_ids;
            return py::array_t<std::int64_t>(static_cast<py::ssize_t>(ids.size()), ids.data(), self);
          },
          "int64 [n].")
      .def("__repr__", [](const py::object& self) {
        return py::str("RenderedPrompt(text={!r}, input_ids={!r})")
            .format(self.attr("text"), self.attr("input_ids"));
      });

  py::class_<PromptRenderer, std::shared_ptr<PromptRenderer>>(module, "PromptRenderer")
      .def(py::init([](std::shared_ptr<Tokenizer> tokenizer, const py::object& prompt,
                       std::size_t tokens_per_tile) {
             return std::make_shared<PromptRenderer>(std::move(tokenizer), facts_of(prompt), tokens_per_tile);
           }),
           py::arg("tokenizer").none(false), py::arg("prompt"), py::arg("tokens_per_tile"))
      .def(
          "render",
          [](const PromptRenderer& renderer, const py::object& conversation, const Tiles& tiles) {
            const Conversation asked = conversation_of(conversation);
            const GilRelease release;
            return renderer.render(asked, tiles);
          },
          py::arg("conversation"), py::arg("tiles") = Tiles());
}

}  // namespace internvl::bindings
