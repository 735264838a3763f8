#include <pybind11/operators.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/conversations.h"
#include "bindings/gil.h"
#include "bindings/text.h"
#include "prompt/conversation.h"
#include "prompt/messages.h"
#include "runtime/error.h"

namespace internvl::bindings {
namespace {

namespace py = pybind11;

Role role_of(std::string_view name) {
  for (const Role role : {Role::user, Role::assistant}) {
    if (name == name_of(role)) return role;
  }
  throw PromptError("the role is '" + std::string(name) + "'; user or assistant was expected.");
}

ImagePlace place_of(std::optional<std::string_view> detail) {
  return {detail ? std::optional(detail_of(*detail)) : std::nullopt};
}

std::optional<std::string_view> detail_name(const ImagePlace& place) {
  return place.detail ? std::optional(name_of(*place.detail)) : std::nullopt;
}

TurnPart part_of(const py::handle& part) {
  if (py::isinstance<ImagePlace>(part)) return part.cast<ImagePlace>();
  return utf8_of(part);
}

py::object object_of(const TurnPart& part) {
  if (const auto* text = std::get_if<std::string>(&part)) return str_of(*text);
  if (const auto* generated = std::get_if<GeneratedTokens>(&part)) return py::cast(generated->ids);
  return py::cast(std::get<ImagePlace>(part));
}

py::tuple parts_of(const Turn& turn) {
  py::tuple parts(turn.parts.size());
  for (std::size_t i = 0; i < turn.parts.size(); ++i) parts[i] = object_of(turn.parts[i]);
  return parts;
}

}  // namespace

Detail detail_of(std::string_view name) {
  for (const Detail detail : {Detail::low, Detail::high, Detail::automatic}) {
    if (name == name_of(detail)) return detail;
  }
  throw PromptError("detail is '" + std::string(name) + "'; low, high or auto was expected.");
}

Conversation conversation_of(const py::handle& asked) {
  return {asked.attr("turns").cast<std::vector<Turn>>(), optional_utf8_of(asked.attr("system"))};
}

void register_conversation(py::module_& module) {
  py::class_<ImagePlace>(module, "ImagePlace")
      .def(py::init(&place_of), py::arg("detail") = py::none())
      .def_property_readonly("detail", &detail_name)
      .def(py::self == py::self)
      .def("__repr__", [](const ImagePlace& place) {
        return py::str("ImagePlace(detail={!r})").format(detail_name(place));
      });

  py::class_<Turn>(module, "Turn")
      .def(py::init([](std::string_view role, const py::iterable& parts) {
             Turn turn = {role_of(role), {}};
             for (const py::handle& part : parts) turn.parts.push_back(part_of(part));
             return turn;
           }),
           py::arg("role"), py::arg("parts"))
      .def_property_readonly("role", [](const Turn& turn) { return name_of(turn.role); })
      .def_property_readonly("parts", &parts_of)
      .def(py::self == py::self)
      .def("__repr__", [](const Turn& turn) {
        return py::str("Turn(role={!r}, parts={!r})").format(name_of(turn.role), parts_of(turn));
      });

  module.def(
      "read_question",
      [](const py::str& question, const std::vector<py::tuple>& history, std::size_t images) {
        const std::string text = utf8_of(question);
        std::vector<Exchange> exchanges;
        exchanges.reserve(history.size());
        for (const py::tuple& pair : history) exchanges.push_back({utf8_of(pair[0]), utf8_of(pair[1])});
        const GilRelease release;
        return read_question(text, exchanges, images);
      },
      py::arg("question"), py::arg("history"), py::arg("images"));

  py::class_<MessageReader>(module, "MessageReader")
      .def(py::init())
      .def(
          "begin_message",
          [](MessageReader& reader, const py::str& role, const py::str& shown) {
            reader.begin_message(utf8_of(role), utf8_of(shown));
          },
          py::arg("role"), py::arg("shown"))
      .def(
          "text_content",
          [](MessageReader& reader, const py::str& text) { reader.text_content(utf8_of(text)); },
          py::arg("text"))
      .def(
          "begin_item",
          [](MessageReader& reader, const py::str& kind, const py::str& shown) {
            return reader.begin_item(utf8_of(kind), utf8_of(shown)) == ItemKind::text ? "text" : "image";
          },
          py::arg("kind"), py::arg("shown"))
      .def(
          "text_item", [](MessageReader& reader, const py::str& text) { reader.text_item(utf8_of(text)); },
          py::arg("text"))
      .def("image_item", &MessageReader::image_item, py::arg("place"))
      .def("end", &MessageReader::end)
      .def("turns", &MessageReader::turns, py::arg("images"))
      .def_property_readonly("system", [](const MessageReader& reader) -> py::object {
        if (!reader.system()) return py::none();
        return str_of(*reader.system());
      });
}

}  // namespace internvl::bindings
