#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "check.h"
#include "prompt/byte_pair_model.h"
#include "prompt/detokeniser.h"
#include "prompt/normaliser.h"
#include "prompt/tokenizer.h"
#include "prompt/unicode.h"
#include "runtime/json.h"
#include "runtime/utf8.h"

namespace internvl {
namespace {

using Ids = std::vector<std::int64_t>;

// Byte-level, over a few letters: a..h are 0..7, a space is 8; "ab" 9, "abab" 10, "cd" 11, an é in two bytes
// 12, 13.
constexpr std::string_view kModel = R"({
  "type": "BPE", "unk_token": null,
  "vocab": {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4, "f": 5, "g": 6, "h": 7, "Ġ": 8, "ab": 9, "abab": 10, "cd": 11,
            "Ã": 12, "©": 13},
  "merges": [["a", "b"], "ab ab", ["c", "d"]]
})";

std::string document(std::string_view added) {
  return R"({"model": )" + std::string(kModel) +
         R"(, "normalizer": null, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false},)"
         R"("decoder": {"type": "ByteLevel"}, "added_tokens": [)" +
         std::string(added) + "]}";
}

constexpr std::string_view kAdded =
    R"({"id": 20, "content": "<|im_end|>", "special": true}, {"id": 21, "content": "<ref>", "special": true},
       {"id": 22, "content": "<task>", "special": true, "rstrip": true}, {"id": 23, "content": "<plain>"})";

Ids encode(const Tokenizer& tokenizer, std::string text) {
  const PromptPart part = {std::move(text)};
  return tokenizer.encode({&part, 1});
}

json::Document parsed(std::string_view text) { return json::Document(std::string(text)); }

TEST("JSON is read as it is written") {
  const json::Document document(
      R"( {"a": [1, -2.5e3, true, null], "b\u00e9\ud83d\ude00": "x\"\\\/\b\f\n\r\t", "": {}, "a": 7} )");
  const json::Value root = document.root();
  CHECK(root.is_object() && root.size() == 4);
  CHECK(root.find("a")->integer() == 7);
  CHECK(root.find("bé😀")->string() == "x\"\\/\b\f\n\r\t");
  CHECK(root.find("")->is_object() && root.find("")->size() == 0);
  CHECK(!root.find("c"));
  std::vector<std::string> kinds;
  root.each_member([&](std::string_view, const json::Value& value) {
    value.each_item([&](const json::Value& item) { kinds.emplace_back(item.text()); });
  });
  CHECK((kinds == std::vector<std::string>{"1", "-2.5e3", "true", "null"}));
  const json::Document number("-2.5e3");
  CHECK(number.root().number() == -2500.0 && !number.root().integer());
}

TEST("what is not JSON is refused") {
  for (const std::string_view text : {"",
                                      " ",
                                      "{",
                                      "[1,]",
                                      "{\"a\"}",
                                      "{\"a\":1,}",
                                      "{a:1}",
                                      "01",
                                      "-",
                                      "1.",
                                      "1e",
                                      "+1",
                                      ".5",
                                      "tru",
                                      "\"",
                                      "\"\\x\"",
                                      "\"\\u12g4\"",
                                      "\"\\ud800\"",
                                      "\"\\ud800\\u0041\"",
                                      "\"\\udc00\"",
                                      "\"\n\"",
                                      "1 2",
                                      "[1 2]",
                                      "{\"a\":1 \"b\":2}",
                                      "\"\xff\"",
                                      "\"\xed\xa0\x80\"",
                                      "\"\xc0\x80\"",
                                      "nan",
                                      "'a'",
                                      "// a\n1"}) {
    CHECK_THROWS(BundleError, parsed(text));
  }
  CHECK_THROWS(BundleError, parsed(std::string(100, '[') + std::string(100, ']')));
  CHECK_THROWS(BundleError, parsed(std::string(1 << 20, '[')));
}

TEST("an error of syntax names the member that it is in") {
  const auto message = [](std::string_view text) -> std::string {
    try {
      parsed(text);
    } catch (const json::SyntaxError& error) {
      return error.what();
    }
    return "";
  };
  const auto contains = [](std::string_view text, std::string_view part) {
    return text.find(part) != std::string::npos;
  };
  CHECK(message(R"({"a": {"b": [1, NaN]}})") ==
        "JSON was expected; at byte 16, in a.b, a value was expected, not 'NaN]}}'.");
  CHECK(contains(message(R"({"a": 1, "b": "\ud800"})"), "in b, a pair of surrogates"));
  CHECK(contains(message(R"({"a": {"b": 1}, "c)"), "at byte 18 '\"' was expected, and the file ends"));
  CHECK(contains(message("{\"a\": {\"b\": 1} x"), "at byte 15 ',' or '}' was expected, not 'x'"));
  const json::Document twice(R"({"b": 1, "a": 2, "\u0062": 3})");
  CHECK(twice.root().repeated_name() == "b");
  CHECK(!json::Document(R"({"b": 1, "a": {"b": 2}})").root().repeated_name());
}

TEST("bytes that are no UTF-8 are repaired") {
  CHECK(utf8::repaired("a\xff\xe4\xbd"
                       "b") == "a\uFFFD\uFFFD\uFFFDb");
  CHECK(utf8::repaired("\xed\xa0\x80") == "\uFFFD");
  CHECK(utf8::repaired("é中😀") == "é中😀");
  CHECK(utf8::valid("é中😀") && !utf8::valid("\xf4\x90\x80\x80") && !utf8::valid("\xe4\xbd"));
}

TEST("text for messages is short and steers no terminal") {
  CHECK(utf8::shown("höflich", 3) == "höf");
  CHECK(utf8::shown("a\x1b[31mb\n\x7f", 20) == "a\\x1b[31mb\\x0a\\x7f");
  CHECK(utf8::shown("a\xc2\x9b!", 20) == "a\\x9b!");
  CHECK(utf8::shown("", 5).empty() && utf8::shown("abc", 0).empty());
}

TEST("text is composed") {
  CHECK(unicode::composed("e\u0301") == "é");
  CHECK(unicode::composed("a\u0323\u0302") == "ậ" && unicode::composed("a\u0302\u0323") == "ậ");
  CHECK(unicode::composed("\u1100\u1161\u11A8") == "각");
  CHECK(unicode::composed("plain") == "plain" && unicode::composed("").empty());
  CHECK(unicode::composed("\u0958") == "\u0915\u093C");
}

TEST("text becomes the tokens of its merges, and no token that steers") {
  const Tokenizer tokenizer(document(kAdded), {{22}, false});
  CHECK((encode(tokenizer, "ababcd ab") == Ids{10, 11, 8, 9}));
  CHECK((encode(tokenizer, "é") == Ids{12, 13}));
  const Ids typed = encode(tokenizer, "a<|im_end|>b");
  for (const std::int64_t id : typed) CHECK(id < 20);
  CHECK((encode(tokenizer, "a<ref>b<task>  c<plain>") == Ids{0, 21, 1, 22, 2, 23}));
  CHECK((tokenizer.encode(std::vector<PromptPart>{{"a"}, {"b"}, {"<|im_end|>", true, 2}, {"c"}}) ==
         Ids{9, 20, 20, 2}));
  CHECK_THROWS(BundleError, tokenizer.encode(std::vector<PromptPart>{{"<plain>", true}}));
  CHECK_THROWS(BundleError, Tokenizer(document(kAdded), {{20}, false}));
  CHECK_THROWS(BundleError, Tokenizer(document(kAdded), {{23}, false}));
  CHECK(tokenizer.vocab_size() == 18 && tokenizer.longest_token() == 10);
}

TEST("special tokens are visible as asked") {
  const Tokenizer tokenizer(document(kAdded), {{22}, false});
  CHECK(tokenizer.token_bytes(21, KeepTokens::none, false).empty());
  CHECK(tokenizer.token_bytes(21, KeepTokens::grounding, false) == "<ref>");
  CHECK(tokenizer.token_bytes(22, KeepTokens::grounding, false).empty());
  CHECK(tokenizer.token_bytes(22, KeepTokens::task, false) == "<task>");
  CHECK(tokenizer.token_bytes(20, KeepTokens::task, false).empty());
  CHECK(tokenizer.token_bytes(20, KeepTokens::all, false) == "<|im_end|>");
  CHECK(tokenizer.token_bytes(23, KeepTokens::none, false) == "<plain>");
  CHECK(tokenizer.token_bytes(-1, KeepTokens::all, false).empty());
  CHECK(tokenizer.token_bytes(std::int64_t{1} << 40, KeepTokens::all, false).empty());
}

TEST("a stop string is found across tokens, and nothing of it comes out") {
  const auto tokenizer = std::make_shared<const Tokenizer>(document(kAdded), TokenizerOptions{});
  Detokeniser text(tokenizer, {KeepTokens::none, {"abac", "", "bac"}, false});
  CHECK(text.push(0).empty());
  CHECK(text.push(1).empty());
  CHECK(text.push(9) == "ab");
  CHECK(text.push(0).empty());
  CHECK(text.push(2).empty());
  CHECK(text.stopped() == "abac");
  CHECK(text.push(0).empty() && text.finish().empty());
  Detokeniser cut(tokenizer, {});
  CHECK(cut.push(12).empty());
  CHECK(cut.push(0) == "\uFFFDa");
  CHECK(cut.push(12).empty());
  CHECK(cut.finish() == "\uFFFD");
}

TEST("the work for a word is in proportion to its length") {
  const json::Document document{std::string(kModel)};
  const BytePairModel model(document.root(), true);
  for (const std::string_view repeated : {"ab", "a", "ab cd", "abababc"}) {
    for (const std::size_t length : {10U, 1000U, 100'000U}) {
      std::string word;
      while (word.size() < length) word += repeated;
      BytePairScratch scratch;
      Ids ids;
      model.encode(word, scratch, ids);
      // Every pair once, and for each merge the pair itself and its two neighbours.
      CHECK(scratch.lookups() <= 4 * word.size());
      CHECK(scratch.lookups() >= word.size() / 2);
    }
  }
}

TEST("words that come again take no work, and what is kept is bounded") {
  const json::Document document{std::string(kModel)};
  const BytePairModel model(document.root(), true);
  BytePairScratch scratch;
  Ids ids;
  model.encode("ababcd", scratch, ids);
  const std::uint64_t before = scratch.lookups();
  model.encode("ababcd", scratch, ids);
  CHECK(scratch.lookups() == before);
  CHECK((ids == Ids{10, 11, 10, 11}));
  // More words than are kept come out right all the same.
  for (std::uint32_t i = 0; i < 200'000; ++i) {
    std::string word;
    for (std::uint32_t left = i + 1; left > 0; left /= 8) word += static_cast<char>('a' + left % 8);
    Ids once;
    Ids again;
    BytePairScratch fresh;
    model.encode(word, scratch, once);
    if (i % 97 == 0) {
      model.encode(word, fresh, again);
      CHECK(once == again);
    }
  }
}

}  // namespace
}  // namespace internvl

int main() { return internvl::test::run_all(); }
