#include "runtime/json.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <string>
#include <utility>

#include "runtime/utf8.h"

namespace internvl::json {
namespace {

constexpr std::size_t kMaxBytes = std::size_t{256} << 20;
constexpr int kMaxDepth = 64;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

class Reader {
 public:
  explicit Reader(Document& document) : document_(document), text_(document.text_) {}

  void read() {
    if (text_.size() > kMaxBytes) throw BundleError("JSON of at most 256 MiB was expected.");
    if (!utf8::valid(text_)) throw SyntaxError("this is not UTF-8");
    skip_space();
    value(0);
    skip_space();
    if (at_ != text_.size()) fail("the end of the file");
  }

 private:
  [[noreturn]] void fail(std::string_view expected) const {
    constexpr std::size_t kShownName = 50;
    constexpr std::size_t kShown = 20;
    std::string members;
    for (const std::size_t name : names_) {
      members += (members.empty() ? ", in " : ".") +
                 utf8::shown(document_.string_of(document_.nodes_[name]), kShownName);
    }
    const std::string_view rest = text_.substr(at_);
    throw SyntaxError("at byte " + std::to_string(at_) + members + (members.empty() ? " " : ", ") +
                      std::string(expected) + " was expected, " +
                      (rest.empty() ? "and the file ends" : "not '" + utf8::shown(rest, kShown) + "'"));
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  bool take(char c) {
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  void skip_space() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t')) {
      ++at_;
    }
  }

  std::size_t open(Kind kind) {
    document_.nodes_.push_back({kind, false, static_cast<std::uint32_t>(at_), 0, 0, 0});
    return document_.nodes_.size() - 1;
  }

  void close(std::size_t index, std::uint32_t size) {
    Document::Node& node = document_.nodes_[index];
    if (!node.escaped) node.length = static_cast<std::uint32_t>(at_) - node.begin;
    node.end = static_cast<std::uint32_t>(document_.nodes_.size());
    node.size = size;
  }

  void word(std::string_view written, Kind kind) {
    if (text_.substr(at_, written.size()) != written) fail("a value");
    const std::size_t node = open(kind);
    at_ += written.size();
    close(node, 0);
  }

  void value(int depth) {
    if (depth > kMaxDepth) fail("no more than 64 levels");
    switch (peek()) {
      case '{':
        return container(Kind::object, '}', depth);
      case '[':
        return container(Kind::array, ']', depth);
      case '"':
        return string();
      case 't':
        return word("true", Kind::boolean);
      case 'f':
        return word("false", Kind::boolean);
      case 'n':
        return word("null", Kind::null);
      default:
        return number();
    }
  }

  void container(Kind kind, char last, int depth) {
    const std::size_t node = open(kind);
    ++at_;
    std::uint32_t size = 0;
    skip_space();
    if (!take(last)) {
      do {
        skip_space();
        if (kind == Kind::object) {
          if (peek() != '"') fail("a name");
          const std::size_t name = document_.nodes_.size();
          string();
          names_.push_back(name);
          skip_space();
          if (!take(':')) fail("':'");
          skip_space();
        }
        value(depth + 1);
        if (kind == Kind::object) names_.pop_back();
        ++size;
        skip_space();
      } while (take(','));
      if (!take(last)) fail(kind == Kind::object ? "',' or '}'" : "',' or ']'");
    }
    close(node, size);
  }

  void number() {
    const std::size_t node = open(Kind::number);
    take('-');
    if (!is_digit(peek())) fail("a value");
    if (!take('0')) digits();
    if (take('.')) digits();
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      digits();
    }
    close(node, 0);
  }

  void digits() {
    if (!is_digit(peek())) fail("a digit");
    while (is_digit(peek())) ++at_;
  }

  void string() {
    const std::size_t node = open(Kind::string);
    ++at_;
    const std::size_t begin = at_;
    std::size_t copied = at_;
    const std::size_t unescaped = document_.unescaped_.size();
    for (;;) {
      if (at_ == text_.size()) fail("'\"'");
      const char c = text_[at_];
      if (c == '"') break;
      if (static_cast<unsigned char>(c) < 0x20) fail("an escaped control character");
      if (c != '\\') {
        ++at_;
        continue;
      }
      document_.unescaped_ += text_.substr(copied, at_ - copied);
      ++at_;
      escape();
      copied = at_;
    }
    Document::Node& made = document_.nodes_[node];
    if (copied == begin) {
      made.begin = static_cast<std::uint32_t>(begin);
      close(node, 0);
    } else {
      document_.unescaped_ += text_.substr(copied, at_ - copied);
      made.escaped = true;
      made.begin = static_cast<std::uint32_t>(unescaped);
      made.length = static_cast<std::uint32_t>(document_.unescaped_.size() - unescaped);
      close(node, 0);
    }
    ++at_;
  }

  void escape() {
    static constexpr std::string_view kNames = "\"\\/bfnrt";
    static constexpr std::string_view kMeant = "\"\\/\b\f\n\r\t";
    if (take('u')) {
      char32_t c = unit();
      if (c >= 0xDC00 && c < 0xE000) fail("a pair of surrogates");
      if (c >= 0xD800 && c < 0xDC00) {
        if (!take('\\') || !take('u')) fail("a pair of surrogates");
        const char32_t low = unit();
        if (low < 0xDC00 || low >= 0xE000) fail("a pair of surrogates");
        c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
      }
      utf8::append(document_.unescaped_, c);
      return;
    }
    const std::size_t found = at_ < text_.size() ? kNames.find(text_[at_]) : std::string_view::npos;
    if (found == std::string_view::npos) fail("an escape");
    document_.unescaped_.push_back(kMeant[found]);
    ++at_;
  }

  char32_t unit() {
    std::uint32_t value = 0;
    const std::string_view digits = text_.substr(at_, 4);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
    if (digits.size() < 4 || error != std::errc() || end != digits.data() + 4)
      fail("four hexadecimal digits");
    at_ += 4;
    return value;
  }

  Document& document_;
  std::string_view text_;
  std::size_t at_ = 0;
  std::vector<std::size_t> names_;  // nodes of the members that the position is in
};

Document::Document(std::string text) : text_(std::move(text)) { Reader(*this).read(); }

std::string_view Document::string_of(const Node& node) const {
  return std::string_view(node.escaped ? unescaped_ : text_).substr(node.begin, node.length);
}

Kind Value::kind() const { return document_->nodes_[node_].kind; }

std::size_t Value::size() const { return document_->nodes_[node_].size; }

std::string_view Value::text() const {
  const Document::Node& node = document_->nodes_[node_];
  return document_->string_of(node);
}

std::optional<bool> Value::boolean() const {
  if (kind() != Kind::boolean) return std::nullopt;
  return text() == "true";
}

std::optional<std::int64_t> Value::integer() const {
  if (kind() != Kind::number) return std::nullopt;
  const std::string_view written = text();
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(written.data(), written.data() + written.size(), value);
  if (error != std::errc() || end != written.data() + written.size()) return std::nullopt;
  return value;
}

std::optional<double> Value::number() const {
  if (kind() != Kind::number) return std::nullopt;
  const std::string_view written = text();
  double value = 0;
  const auto [end, error] = std::from_chars(written.data(), written.data() + written.size(), value);
  if (error == std::errc::result_out_of_range) return std::nullopt;
  return value;
}

std::optional<std::string_view> Value::string() const {
  if (kind() != Kind::string) return std::nullopt;
  return text();
}

std::optional<Value> Value::find(std::string_view name) const {
  std::optional<Value> found;
  each_member([&](std::string_view member, Value value) {
    if (member == name) found = value;
  });
  return found;
}

std::optional<std::string_view> Value::repeated_name() const {
  std::vector<std::string_view> names;
  each_member([&](std::string_view name, const Value&) { names.push_back(name); });
  std::ranges::sort(names);
  const auto found = std::ranges::adjacent_find(names);
  return found == names.end() ? std::nullopt : std::optional(*found);
}

std::optional<std::string_view> Value::find_string(std::string_view name) const {
  const auto value = find(name);
  return value ? value->string() : std::nullopt;
}

}  // namespace internvl::json
