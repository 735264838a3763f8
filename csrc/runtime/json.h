// A strict reader of JSON (RFC 8259) for files that come from outside: bounded in depth and size, and no text
// that is not UTF-8 gets through.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/error.h"

namespace internvl::json {

enum class Kind : std::uint8_t { null, boolean, number, string, array, object };

// Text that is not JSON.
class SyntaxError : public BundleError {
 public:
  explicit SyntaxError(const std::string& detail)
      : BundleError("JSON was expected; " + detail + "."), detail_(detail) {}

  // Where, and what was expected there; without a full stop.
  const std::string& detail() const { return detail_; }

 private:
  std::string detail_;
};

class Document;

// One value of a document, which must outlive it.
class Value {
 public:
  Kind kind() const;
  bool is_null() const { return kind() == Kind::null; }
  bool is_array() const { return kind() == Kind::array; }
  bool is_object() const { return kind() == Kind::object; }

  std::optional<bool> boolean() const;
  // None unless it is a number without fraction and exponent that fits.
  std::optional<std::int64_t> integer() const;
  std::optional<double> number() const;
  std::optional<std::string_view> string() const;

  // Items of an array or members of an object; 0 for anything else.
  std::size_t size() const;
  // The member of an object by its name, the last one where there are several; none in anything else.
  std::optional<Value> find(std::string_view name) const;
  // The same, where it is a string.
  std::optional<std::string_view> find_string(std::string_view name) const;

  // A name that two members of an object have; none in anything else.
  std::optional<std::string_view> repeated_name() const;

  // The value as it was written, a string without its quotes and escapes.
  std::string_view text() const;

  // Calls visit(Value) for every item of an array.
  template <class Visit>
  void each_item(Visit visit) const;
  // Calls visit(std::string_view name, Value) for every member of an object, in the order of the document.
  template <class Visit>
  void each_member(Visit visit) const;

 private:
  friend class Document;
  Value(const Document& document, std::size_t node) : document_(&document), node_(node) {}

  const Document* document_;
  std::size_t node_;
};

class Document {
 public:
  // Throws SyntaxError that says what is wrong, and where; BundleError if the text is too long.
  explicit Document(std::string text);
  Document(const Document&) = delete;
  Document(Document&&) = delete;
  Document& operator=(const Document&) = delete;
  Document& operator=(Document&&) = delete;
  ~Document() = default;

  Value root() const { return {*this, 0}; }

 private:
  friend class Value;
  friend class Reader;

  // Values in the order of the document; a container's are behind it, up to `end`. A member is its name, then
  // its value.
  struct Node {
    Kind kind;
    bool escaped;          // the text of a string is in unescaped_
    std::uint32_t begin;   // of the text, in bytes
    std::uint32_t length;  // of the text, in bytes
    std::uint32_t end;     // node behind the value
    std::uint32_t size;    // items, or members
  };

  std::string_view string_of(const Node& node) const;

  std::string text_;
  std::string unescaped_;
  std::vector<Node> nodes_;
};

template <class Visit>
void Value::each_item(Visit visit) const {
  if (!is_array()) return;
  const std::size_t end = document_->nodes_[node_].end;
  for (std::size_t node = node_ + 1; node < end; node = document_->nodes_[node].end) {
    visit(Value(*document_, node));
  }
}

template <class Visit>
void Value::each_member(Visit visit) const {
  if (!is_object()) return;
  const std::size_t end = document_->nodes_[node_].end;
  for (std::size_t node = node_ + 1; node < end; node = document_->nodes_[node + 1].end) {
    visit(document_->string_of(document_->nodes_[node]), Value(*document_, node + 1));
  }
}

}  // namespace internvl::json
