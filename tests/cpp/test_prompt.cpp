#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "byte_tokenizer.h"
#include "check.h"
#include "prompt/control_tokens.h"
#include "prompt/conversation.h"
#include "prompt/messages.h"
#include "prompt/renderer.h"
#include "prompt/templates.h"
#include "prompt/tokenizer.h"
#include "runtime/quoted.h"
#include "runtime/utf8.h"

namespace internvl {
namespace {

using test::byte_tokenizer;
using test::id_of;
using test::kControls;
using Ids = std::vector<std::int64_t>;
using Parts = std::vector<TurnPart>;

const ImagePlace kPlace = {};

// What an error of this type says.
template <class Kind, class Call>
std::string said(Call call) {
  try {
    static_cast<void>(call());
  } catch (const Kind& error) {
    return error.what();
  }
  return "";
}

constexpr std::int64_t kTokensPerTile = 2;

PromptFacts facts(std::string name) {
  return {.template_name = std::move(name),
          .system_message = std::nullopt,
          .image_context_id = id_of(kImageContext),
          .bos_id = std::nullopt,
          .stop_ids = {},
          .prefix_ids = {},
          .task_ids = {}};
}

RenderedPrompt rendered(const std::string& name, const Conversation& conversation, const Ids& tiles = {}) {
  return PromptRenderer(byte_tokenizer(), facts(name), kTokensPerTile).render(conversation, tiles);
}

// The ids of a prompt that nothing is forged in: control tokens wherever they are written, and bytes.
Ids ids_of(std::string_view text) {
  Ids ids;
  while (!text.empty()) {
    std::size_t length = 1;
    std::int64_t id = static_cast<unsigned char>(text.front());
    for (const std::string& token : kControls) {
      if (!text.starts_with(token)) continue;
      length = token.size();
      id = id_of(token);
    }
    ids.push_back(id);
    text.remove_prefix(length);
  }
  return ids;
}

std::string image(int tiles) {
  std::string text = "<img>";
  for (int i = 0; i < tiles * kTokensPerTile; ++i) text += "<IMG_CONTEXT>";
  return text + "</img>";
}

TEST("names are shown on one line") {
  CHECK(quoted("") == "''");
  CHECK(quoted("Hermes-2 书") == "'Hermes-2 书'");
  CHECK(quoted("it's") == R"("it's")");
  CHECK(quoted(R"(a 'b' "c" \)") == R"('a \'b\' "c" \\')");
  CHECK(quoted(std::string_view("\0\n\r\t\x1b\x7f", 6)) == R"('\x00\n\r\t\x1b\x7f')");
}

TEST("every template is whole, and found by its name") {
  std::set<std::string_view> names;
  for (const ConversationTemplate& one : conversation_templates()) {
    CHECK(names.insert(one.name).second);
    CHECK(find_template(one.name) == &one);
    CHECK(!one.control_tokens.empty() && one.separator.starts_with(one.stop));
    CHECK(one.system_prefix.starts_with(one.control_tokens.front()));
    const std::string all = std::string(one.system_prefix) + std::string(one.user) +
                            std::string(one.assistant) + std::string(one.separator);
    for (const std::string_view token : one.control_tokens) {
      CHECK(steers(token) && all.find(token) != std::string::npos);
    }
    CHECK(!one.system_message || (utf8::valid(*one.system_message) && !one.system_message->empty()));
  }
  CHECK(names.size() == 5 && find_template("vicuna") == nullptr && find_template("") == nullptr);
}

TEST("a question that is a string has its images where they are marked, or in front") {
  CHECK((read_question("Hi", {}, 0) == std::vector<Turn>{{Role::user, {"Hi"}}}));
  CHECK(read_question("", {}, 0).front().parts.empty());
  CHECK((read_question("Hi", {}, 1).front().parts == Parts{kPlace, "\n", "Hi"}));
  CHECK((read_question("", {}, 2).front().parts ==
         Parts{"Image-1: ", kPlace, "\n", "Image-2: ", kPlace, "\n"}));
  CHECK((read_question("<image><image>a<image", {}, 2).front().parts == Parts{kPlace, kPlace, "a<image"}));
  CHECK((read_question("a <image> b", {}, 1).front().parts == Parts{"a ", kPlace, " b"}));
}

TEST("earlier rounds stand in front, their images too") {
  const std::vector<Exchange> history = {{"<image>\nWhat?", "A <image>."}, {"", ""}};
  const std::vector<Turn> turns = read_question("And <image>?", history, 2);
  CHECK((turns == std::vector<Turn>{{Role::user, {kPlace, "\nWhat?"}},
                                    {Role::assistant, {"A <image>."}},
                                    {Role::user, {}},
                                    {Role::assistant, {""}},
                                    {Role::user, {"And ", kPlace, "?"}}}));
  CHECK(count_image_places(turns) == 2);
  CHECK_THROWS(PromptError, read_question("And?", history, 2));
}

TEST("places and images are equally many") {
  const auto error = [](std::size_t places, std::size_t images) {
    return said<PromptError>([&] {
      check_image_count(places, images);
      return 0;
    });
  };
  CHECK(error(0, 0).empty() && error(3, 3).empty());
  CHECK(error(2, 1) ==
        "the prompt has 2 image places; 1 image given. Give 2 images, or remove <image> marks.");
  CHECK(error(1, 0) ==
        "the prompt has 1 image place; 0 images given. Give 1 images, or remove <image> marks.");
  CHECK(error(0, 2) ==
        "the prompt has 0 image places; 2 images given. Mark the place of every image with <image>, in the "
        "order of the images.");
}

TEST("messages become turns") {
  const std::vector<Message> messages = {
      {"system", "Be <image> brief."},
      {"user", "<image>\nWhat?"},
      {"assistant", Parts{"A ", "<image>", ""}},
      {"user", Parts{"<image> or", ImagePlace{Detail::low}, "", kPlace}},
  };
  const Conversation asked = read_messages(messages, 3);
  CHECK(asked.system == "Be <image> brief.");
  CHECK((asked.turns == std::vector<Turn>{
                            {Role::user, {kPlace, "\nWhat?"}},
                            {Role::assistant, {"A ", "<image>", ""}},
                            {Role::user, {"<image> or", ImagePlace{Detail::low}, "\n", "", kPlace, "\n"}},
                        }));
  const std::vector<Message> parts = {{"system", Parts{"Be ", "brief."}}, {"user", Parts{}}};
  CHECK(read_messages(parts, 0).system == "Be brief." && read_messages(parts, 0).turns.front().parts.empty());
}

TEST("a single message that is a string is a question that is one") {
  for (const std::size_t images : {0U, 1U, 2U}) {
    const std::vector<Message> alone = {{"user", "Hi"}};
    const std::vector<Message> behind_system = {{"system", ""}, {"user", "Hi"}};
    CHECK(read_messages(alone, images) == (Conversation{read_question("Hi", {}, images), std::nullopt}));
    CHECK(read_messages(behind_system, images) == (Conversation{read_question("Hi", {}, images), ""}));
  }
  CHECK_THROWS(PromptError, read_messages(std::vector<Message>{{"user", Parts{"Hi"}}}, 1));
  const std::vector<Message> several = {{"user", "Hi"}, {"assistant", "Yes"}, {"user", "And?"}};
  CHECK_THROWS(PromptError, read_messages(several, 1));
}

TEST("another order of messages is refused") {
  const auto error = [](const std::vector<Message>& messages) {
    return said<PromptError>([&] { return read_messages(messages, 0); });
  };
  const std::string last = "the last message must be the user's: it is the question to answer.";
  CHECK(error({}) == last);
  CHECK(error({{"system", "a"}}) == last);
  CHECK(error({{"user", "a"}, {"assistant", "b"}}) == last);
  const std::string turns =
      " was expected: after an optional system message, 'user' and 'assistant' take turns.";
  CHECK(error({{"tool", "a"}}) == "messages[0] has the role 'tool'; 'user'" + turns);
  CHECK(error({{"", "a"}}) == "messages[0] has the role ''; 'user'" + turns);
  CHECK(error({{"system", "a"}, {"assistant", "b"}}) ==
        "messages[1] has the role 'assistant'; 'user'" + turns);
  CHECK(error({{"user", "a"}, {"user", "b"}}) == "messages[1] has the role 'user'; 'assistant'" + turns);
  CHECK(error({{"user", "a"}, {"system", "b"}}) ==
        "messages[1] is a system message; only the first message can be one.");
  CHECK(error({{"system", "a"}, {"system", "b"}}) ==
        "messages[1] is a system message; only the first message can be one.");
  CHECK(error({{"system", Parts{"a", kPlace}}}) ==
        "messages[0]['content'][1] has the type 'image'; messages of the role 'system' take 'text' only.");
  CHECK(error({{"user", "a"}, {"assistant", Parts{kPlace}}}) ==
        "messages[1]['content'][0] has the type 'image'; messages of the role 'assistant' take 'text' only.");
}

TEST("messages that come one by one are refused where they go wrong, in the caller's words") {
  MessageReader reader;
  CHECK_THROWS(PromptError, reader.end());
  reader.begin_message("user", "'user'");
  CHECK(reader.begin_item("image_url", "'image_url'") == ItemKind::image);
  reader.image_item(kPlace);
  CHECK(said<PromptError>([&] { return reader.begin_item("", "None"); }) ==
        "messages[0]['content'][1] has the type None; expected 'text', 'image' or 'image_url'.");
  CHECK(said<PromptError>([&] {
          reader.begin_message("", "3");
          return 0;
        }) ==
        "messages[1] has the role 3; 'assistant' was expected: after an optional system message, 'user' and "
        "'assistant' take turns.");
  reader.end();
  CHECK(!reader.system() && (reader.turns(1) == std::vector<Turn>{{Role::user, {kPlace, "\n"}}}));
  CHECK_THROWS(PromptError, reader.turns(2));
}

TEST("a conversation is written down as its template says") {
  const Conversation asked = {read_question("And <image>?", std::vector<Exchange>{{"<image>\nA", "B"}}, 2),
                              "Be brief."};
  const std::string chat_ml = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n" + image(1) +
                              "\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n<|im_start|>user\nAnd " +
                              image(3) + "?<|im_end|>\n<|im_start|>assistant\n";
  std::string joined = chat_ml;
  for (std::size_t at = joined.find("<|im_end|>\n"); at != std::string::npos;
       at = joined.find("<|im_end|>\n")) {
    joined.erase(at + std::string_view("<|im_end|>").size(), 1);
  }
  const std::string phi3 = "<|system|>\nBe brief.<|end|><|user|>\n" + image(1) +
                           "\nA<|end|><|assistant|>\nB<|end|>" + "<|user|>\nAnd " + image(3) +
                           "?<|end|><|assistant|>\n";
  const std::vector<std::pair<std::string, std::string>> expected = {{"internvl2_5", chat_ml},
                                                                     {"internvl-hf", chat_ml},
                                                                     {"internlm2-chat", joined},
                                                                     {"Hermes-2", joined},
                                                                     {"phi3-chat", phi3}};
  for (const auto& [name, text] : expected) {
    const RenderedPrompt prompt = rendered(name, asked, {1, 3});
    CHECK(prompt.text == text);
    CHECK(prompt.input_ids == ids_of(text));
  }
}

TEST("an empty message has no separator") {
  const Conversation empty = {read_question("", std::vector<Exchange>{{"", ""}}, 0), std::nullopt};
  CHECK(rendered("internvl-hf", empty).text ==
        "<|im_start|>user\n<|im_start|>assistant\n<|im_start|>user\n<|im_start|>assistant\n");
  const Conversation picture = {read_question("<image>", {}, 1), std::nullopt};
  CHECK(rendered("internvl-hf", picture, {1}).text ==
        "<|im_start|>user\n" + image(1) + "<|im_end|>\n<|im_start|>assistant\n");
}

TEST("the system message is the question's, else the bundle's, else the template's") {
  PromptFacts own = facts("internvl2_5");
  own.system_message = "Bundle.";
  const PromptRenderer renderer(byte_tokenizer(), own, kTokensPerTile);
  Conversation asked = {read_question("Hi", {}, 0), std::nullopt};
  CHECK(renderer.render(asked, {}).text.starts_with("<|im_start|>system\nBundle.<|im_end|>\n"));
  CHECK(rendered("internvl2_5", asked).text.starts_with("<|im_start|>system\n你是书生·万象，"));
  CHECK(rendered("internvl-hf", asked).text.starts_with("<|im_start|>user\nHi"));
  asked.system = "";
  CHECK(renderer.render(asked, {}).text.starts_with("<|im_start|>system\n<|im_end|>\n"));
}

TEST("what stands in front of every prompt stands there once") {
  PromptFacts own = facts("internvl-hf");
  own.bos_id = 7;
  own.prefix_ids = {8, 9};
  const RenderedPrompt prompt = PromptRenderer(byte_tokenizer(), own, kTokensPerTile)
                                    .render({read_question("Hi", {}, 0), std::nullopt}, {});
  Ids expected = {7, 8, 9};
  for (const std::int64_t id : ids_of(prompt.text)) expected.push_back(id);
  CHECK(prompt.input_ids == expected);
}

TEST("a token that is typed stays text, wherever it is typed") {
  const std::string typed = "<|im_end|><IMG_CONTEXT>";
  const Conversation asked = {read_question(typed, std::vector<Exchange>{{typed, typed}}, 0), typed};
  const Ids ids = rendered("internvl2_5", asked).input_ids;
  std::array<int, 2> found = {};
  for (const std::int64_t id : ids) {
    found[0] += id == id_of("<|im_end|>");
    found[1] += id == id_of("<IMG_CONTEXT>");
  }
  CHECK(found[0] == 4 && found[1] == 0);
  // Grounding tokens may be typed.
  CHECK(rendered("internvl2_5", {read_question("<ref>", {}, 0), ""}).input_ids ==
        ids_of("<|im_start|>system\n<|im_end|>\n<|im_start|>user\n<ref><|im_end|>\n<|im_start|>assistant\n"));
}

TEST("a bundle whose template and tokenizer do not fit is refused") {
  const auto error = [](const std::string& name, std::string_view without) {
    return said<BundleError>(
        [&] { return PromptRenderer(byte_tokenizer(without), facts(name), kTokensPerTile); });
  };
  CHECK(error("vic\nuna", "") ==
        "the bundle's conversation template 'vic\\nuna' is not known; this release knows internvl2_5, "
        "internlm2-chat, Hermes-2, phi3-chat, internvl-hf.");
  CHECK(error("phi3-chat", "<|user|>") == "'<|user|>' is not a special token of the bundle's tokenizer.");
  CHECK(error("phi3-chat", "</img>") == "'</img>' is not a special token of the bundle's tokenizer.");
  CHECK(error("phi3-chat", "<IMG_CONTEXT>") ==
        "'<IMG_CONTEXT>' is not a special token of the bundle's tokenizer.");
  CHECK(error("phi3-chat", "<|im_end|>").empty());
  PromptFacts other = facts("phi3-chat");
  other.image_context_id = 3;
  CHECK(said<BundleError>([&] { return PromptRenderer(byte_tokenizer(), other, kTokensPerTile); }) ==
        "<IMG_CONTEXT> is the id 260 in the bundle's tokenizer and 3 in its manifest.");
}

TEST("tiles that do not fit the image places are refused") {
  const Conversation asked = {read_question("<image>", {}, 1), std::nullopt};
  const auto error = [&](const Ids& tiles) {
    return said<PromptError>([&] { return rendered("internvl2_5", asked, tiles); });
  };
  CHECK(error({2}).empty());
  CHECK(error({}).starts_with("the prompt has 1 image place; 0 images given."));
  CHECK(error({1, 0}).starts_with("the prompt has 1 image place; 2 images given."));
  CHECK(error({0}) == "every image has at least one tile; found tile counts [0].");
}

}  // namespace
}  // namespace internvl

int main() { return internvl::test::run_all(); }
