#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "bindings/text.h"
#include "prompt/byte_alphabet.h"
#include "prompt/control_tokens.h"
#include "prompt/detokeniser.h"
#include "prompt/tokenizer.h"
#include "runtime/error.h"
#include "runtime/utf8.h"

namespace internvl::bindings {
namespace {

namespace py = pybind11;

// A str, or an object with `token` and `count`.
PromptPart part_of(const py::handle& part) {
  if (PyUnicode_Check(part.ptr())) return {utf8_of(part)};
  return {utf8_of(part.attr("token")), true, part.attr("count").cast<std::int64_t>()};
}

template <class Tokens>
py::tuple tuple_of(const Tokens& tokens) {
  py::tuple made(tokens.size());
  for (std::size_t i = 0; i < tokens.size(); ++i) made[i] = py::str(std::string(tokens[i]));
  return made;
}

}  // namespace

void register_tokenizer(py::module_& module) {
  module.attr("IMAGE_MARK") = std::string(kImageMark);
  module.attr("IMG_START") = std::string(kImageStart);
  module.attr("IMG_END") = std::string(kImageEnd);
  module.attr("IMG_CONTEXT") = std::string(kImageContext);
  module.attr("GROUNDING_TOKENS") = tuple_of(kGroundingTokens);
  module.attr("BOS_TOKENS") = tuple_of(kBosTokens);
  module.attr("END_OF_TEXT_TOKENS") = tuple_of(kEndOfTextTokens);
  module.def("steers", [](const py::str& token) { return steers(utf8_of(token)); }, py::arg("token"));
  module.def("byte_alphabet", [] {
    std::string characters;
    for (int byte = 0; byte < 256; ++byte) {
      utf8::append(characters, byte_alphabet::character_of(static_cast<std::uint8_t>(byte)));
    }
    return characters;
  });

  py::class_<Tokenizer, std::shared_ptr<Tokenizer>>(module, "Tokenizer")
      .def(py::init([](std::string json, std::vector<std::int64_t> task_ids, bool clean_up_spaces) {
             const GilRelease release;
             return std::make_shared<Tokenizer>(std::move(json),
                                                TokenizerOptions{std::move(task_ids), clean_up_spaces});
           }),
           py::arg("json"), py::kw_only(), py::arg("task_ids") = std::vector<std::int64_t>(),
           py::arg("clean_up_spaces") = false)
      .def_property_readonly("vocab_size", &Tokenizer::vocab_size)
      .def_property_readonly("longest_token", &Tokenizer::longest_token)
      .def_property_readonly("artificial_spaces",
                             [](const Tokenizer& t) { return t.decoding().artificial_spaces(); })
      .def(
          "token_id", [](const Tokenizer& t, const py::str& token) { return t.token_id(utf8_of(token)); },
          py::arg("token"))
      .def(
          "control_id", [](const Tokenizer& t, const py::str& token) { return t.control_id(utf8_of(token)); },
          py::arg("token"))
      .def("is_special", &Tokenizer::is_special, py::arg("token_id"))
      .def(
          "encode_pieces",
          [](const Tokenizer& tokenizer, const py::iterable& pieces) {
            std::vector<PromptPart> parts;
            for (const py::handle& piece : pieces) parts.push_back(part_of(piece));
            const GilRelease release;
            return tokenizer.encode(parts);
          },
          py::arg("pieces"))
      .def(
          "words",
          [](const Tokenizer& tokenizer, const py::str& text) {
            const std::string bytes = utf8_of(text);
            const GilRelease release;
            return tokenizer.words(bytes);
          },
          py::arg("text"))
      .def(
          "token_bytes",
          [](const Tokenizer& tokenizer, std::int64_t id, std::string_view keep, bool strip_space) {
            return py::bytes(tokenizer.token_bytes(id, keep_of(keep), strip_space));
          },
          py::arg("token_id"), py::arg("keep"), py::kw_only(), py::arg("strip_space") = false);

  py::class_<Detokeniser>(module, "Detokeniser")
      .def(py::init([](std::shared_ptr<Tokenizer> tokenizer, std::string_view keep, const py::iterable& stop,
                       bool verbatim) {
             DetokeniserOptions options = {keep_of(keep), {}, verbatim};
             for (const py::handle& text : stop) options.stop.push_back(utf8_of(text));
             return Detokeniser(std::move(tokenizer), options);
           }),
           py::arg("tokenizer"), py::kw_only(), py::arg("keep") = "none", py::arg("stop") = py::tuple(),
           py::arg("verbatim") = false)
      .def("push", &Detokeniser::push, py::arg("token_id"))
      .def("finish", &Detokeniser::finish)
      .def_property_readonly("stopped", &Detokeniser::stopped);
}

}  // namespace internvl::bindings
