// Typed access to the fields of a manifest, with errors that name the file and the field.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/json.h"

namespace internvl {

// One object of a manifest. All that it throws is BundleError.
class Fields {
 public:
  // `where` is what messages begin with; `name` is the object's own, llm.rope, and empty for the document.
  // Throws if the value is not an object, or a name is there twice.
  Fields(const json::Value& object, const std::string& where, std::string name = "");

  // Fields that must be there; throws if one is not, or of another type or out of range.
  json::Value value(std::string_view field);
  Fields object(std::string_view field);
  bool is_null(std::string_view field) { return value(field).is_null(); }
  bool boolean(std::string_view field);
  std::string text(std::string_view field, std::size_t most_characters);
  // At least one character, and no other than ASCII.
  std::string short_name(std::string_view field);
  std::int64_t integer(std::string_view field, std::int64_t low, std::int64_t high);
  std::size_t size(std::string_view field, std::size_t low, std::size_t high);
  double number(std::string_view field, double low, double high);
  std::vector<std::int64_t> integers(std::string_view field, std::int64_t low, std::int64_t high);
  std::vector<double> numbers(std::string_view field, double low, double high);
  // Which of some strings it is.
  std::size_t choice(std::string_view field, std::span<const std::string_view> choices);

  // For values that have no field of their own, such as members of a map.
  double number_of(const json::Value& value, const std::string& field, double low, double high) const;
  std::size_t choice_of(const json::Value& value, const std::string& field,
                        std::span<const std::string_view> choices) const;
  // The name of a member of a map for a message: files['weights.safetensors'].
  std::string member_name(std::string_view field, std::string_view member) const;

  // Throws unless it holds; says what the field is, and what it must be.
  void require(bool holds, std::string_view field, const std::string& expected);
  [[noreturn]] void fail(const std::string& field, std::string_view found, const std::string& expected) const;

  // Calls visit(std::string_view name, json::Value) for every member of a map.
  template <class Visit>
  void each(Visit visit) const {
    object_.each_member(visit);
  }

  // Throws if the object has a field that was not asked for.
  void finish() const;

 private:
  std::string full_name(std::string_view field) const;
  std::int64_t integer_of(const json::Value& value, const std::string& field, std::int64_t low,
                          std::int64_t high) const;

  json::Value object_;
  std::string where_;
  std::string name_;
  std::vector<std::string_view> known_;
};

}  // namespace internvl
