#include "bundle/fields.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "runtime/error.h"
#include "runtime/utf8.h"

namespace internvl {
namespace {

constexpr std::size_t kShownValue = 100;
constexpr std::size_t kShownName = 200;

std::string text_of(double number) {
  std::array<char, 32> digits{};
  const auto [end, error] = std::to_chars(digits.data(), digits.data() + digits.size(), number);
  return {digits.data(), end};
}

std::string range(const std::string& low, const std::string& high) { return "from " + low + " to " + high; }

bool is_whole(const json::Value& value) {
  return value.kind() == json::Kind::number && value.text().find_first_of(".eE") == std::string_view::npos;
}

}  // namespace

Fields::Fields(const json::Value& object, const std::string& where, std::string name)
    : object_(object), where_(where), name_(std::move(name)) {
  if (!object_.is_object()) fail(name_, object_.text(), "an object");
  if (const auto repeated = object_.repeated_name()) {
    throw BundleError(where_ + ": has the field " + full_name(utf8::shown(*repeated, kShownName)) +
                      " twice. Export the bundle again.");
  }
}

std::string Fields::full_name(std::string_view field) const {
  return name_.empty() ? std::string(field) : name_ + "." + std::string(field);
}

std::string Fields::member_name(std::string_view field, std::string_view member) const {
  return full_name(field) + "['" + utf8::shown(member, kShownName) + "']";
}

void Fields::fail(const std::string& field, std::string_view found, const std::string& expected) const {
  throw BundleError(where_ + ": " + field + " is '" + utf8::shown(found, kShownValue) + "'; it must be " +
                    expected + ". Export the bundle again.");
}

void Fields::require(bool holds, std::string_view field, const std::string& expected) {
  if (!holds) fail(full_name(field), value(field).text(), expected);
}

json::Value Fields::value(std::string_view field) {
  known_.push_back(field);
  const auto found = object_.find(field);
  if (found) return *found;
  throw BundleError(where_ + ": the field " + full_name(field) + " is missing. Export the bundle again.");
}

Fields Fields::object(std::string_view field) { return {value(field), where_, full_name(field)}; }

bool Fields::boolean(std::string_view field) {
  const json::Value found = value(field);
  if (const auto boolean = found.boolean()) return *boolean;
  fail(full_name(field), found.text(), "true or false");
}

std::string Fields::text(std::string_view field, std::size_t most_characters) {
  const json::Value found = value(field);
  const auto text = found.string();
  if (text && utf8::count(*text) <= most_characters) return std::string(*text);
  fail(full_name(field), found.text(),
       "a text of at most " + std::to_string(most_characters) + " characters");
}

std::string Fields::short_name(std::string_view field) {
  constexpr std::size_t kMost = 100;
  const json::Value found = value(field);
  const auto text = found.string();
  const bool fits = text && !text->empty() && text->size() <= kMost &&
                    std::ranges::all_of(*text, [](char c) { return static_cast<unsigned char>(c) < 0x80; });
  if (fits) return std::string(*text);
  fail(full_name(field), found.text(), "a short ASCII name");
}

std::int64_t Fields::integer_of(const json::Value& value, const std::string& field, std::int64_t low,
                                std::int64_t high) const {
  const auto found = value.integer();
  if (found && *found >= low && *found <= high) return *found;
  fail(field, value.text(),
       (is_whole(value) ? "" : "an integer ") + range(std::to_string(low), std::to_string(high)));
}

std::int64_t Fields::integer(std::string_view field, std::int64_t low, std::int64_t high) {
  return integer_of(value(field), full_name(field), low, high);
}

std::size_t Fields::size(std::string_view field, std::size_t low, std::size_t high) {
  return static_cast<std::size_t>(
      integer(field, static_cast<std::int64_t>(low), static_cast<std::int64_t>(high)));
}

double Fields::number_of(const json::Value& value, const std::string& field, double low, double high) const {
  const auto found = value.number();
  if (found && *found >= low && *found <= high) return *found;
  fail(field, value.text(),
       (value.kind() == json::Kind::number ? "" : "a number ") + range(text_of(low), text_of(high)));
}

double Fields::number(std::string_view field, double low, double high) {
  return number_of(value(field), full_name(field), low, high);
}

std::vector<std::int64_t> Fields::integers(std::string_view field, std::int64_t low, std::int64_t high) {
  const json::Value list = value(field);
  if (!list.is_array()) fail(full_name(field), list.text(), "a list of integers");
  std::vector<std::int64_t> found;
  found.reserve(list.size());
  list.each_item([&](const json::Value& item) {
    const std::string name = full_name(field) + "[" + std::to_string(found.size()) + "]";
    found.push_back(integer_of(item, name, low, high));
  });
  return found;
}

std::vector<double> Fields::numbers(std::string_view field, double low, double high) {
  const json::Value list = value(field);
  if (!list.is_array()) fail(full_name(field), list.text(), "a list of numbers");
  std::vector<double> found;
  found.reserve(list.size());
  list.each_item([&](const json::Value& item) {
    const std::string name = full_name(field) + "[" + std::to_string(found.size()) + "]";
    found.push_back(number_of(item, name, low, high));
  });
  return found;
}

std::size_t Fields::choice_of(const json::Value& value, const std::string& field,
                              std::span<const std::string_view> choices) const {
  const auto text = value.string();
  const auto found = text ? std::ranges::find(choices, *text) : choices.end();
  if (found != choices.end()) return static_cast<std::size_t>(found - choices.begin());
  std::string expected;
  for (const std::string_view choice : choices) {
    expected += (expected.empty() ? "one of " : ", ") + std::string(choice);
  }
  fail(field, value.text(), expected);
}

std::size_t Fields::choice(std::string_view field, std::span<const std::string_view> choices) {
  return choice_of(value(field), full_name(field), choices);
}

void Fields::finish() const {
  object_.each_member([&](std::string_view name, const json::Value&) {
    if (std::ranges::find(known_, name) != known_.end()) return;
    throw BundleError(where_ + ": unknown field " + full_name(utf8::shown(name, kShownName)) +
                      ". Export the bundle again.");
  });
}

}  // namespace internvl
