#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "byte_tokenizer.h"
#include "check.h"
#include "generation/prompt_planner.h"
#include "generation/tile_budget.h"

namespace internvl {
namespace {

using test::byte_tokenizer;

const std::int64_t context_id = test::id_of("<IMG_CONTEXT>");
constexpr TilingOptions tiling{56, 1, 12, true, true};

// Four tokens a tile.
Manifest facts() {
  Manifest manifest;
  manifest.vision.image_size = 56;
  manifest.vision.patch_size = 14;
  manifest.vision.downsample = 2;
  manifest.tiling.options = tiling;
  manifest.prompt.template_name = "internvl2_5";
  manifest.prompt.image_context_id = context_id;
  manifest.llm.decoder.rope.max_positions = 512;
  return manifest;
}

PromptPlanner planner(std::size_t context) {
  const auto tokenizer = byte_tokenizer();
  PromptFacts prompt{.template_name = "internvl2_5",
                     .system_message = std::string(),
                     .image_context_id = context_id,
                     .bos_id = std::nullopt,
                     .stop_ids = {},
                     .prefix_ids = {},
                     .task_ids = {}};
  return {tokenizer, std::make_shared<PromptRenderer>(tokenizer, std::move(prompt), 4), facts(), context};
}

Conversation question(std::size_t pictures) { return {read_question("?", {}, pictures), std::string()}; }

PlannedPicture picture(std::int64_t width, std::int64_t height, int most) {
  return {width, height, most, count_tiles(width, height, tiling, most)};
}

template <class Kind, class Call>
std::string said(Call call) {
  try {
    call();
  } catch (const Kind& error) {
    return error.what();
  }
  return "";
}

TEST("pictures share the tiles of a detail, and each has the number that is given") {
  CHECK(TileBudget{}.per_picture(12, 1) == 12);
  CHECK(TileBudget{}.per_picture(12, 5) == 2);
  CHECK(TileBudget{}.per_picture(12, 13) == 1);
  CHECK((TileBudget{std::nullopt, Detail::high}.per_picture(12, 3) == 13));
  CHECK((TileBudget{std::nullopt, Detail::low}.per_picture(12, 1) == 1));
  CHECK((TileBudget{5}.per_picture(12, 9) == 5));
}

TEST("a number of tiles is in its range, and the only thing that says so") {
  for (const std::int64_t wrong : {0, -1, 41}) {
    CHECK_THROWS(ImageError, (TileBudget{wrong}.check(), 0));
  }
  CHECK_THROWS(PromptError, (TileBudget{3, Detail::low}.check(), 0));
  TileBudget{40}.check();
  TileBudget{std::nullopt, Detail::high}.check();
}

TEST("an item has a detail of its own, unless all pictures stand in one place") {
  Conversation asked = question(0);
  std::vector<TurnPart>& parts = asked.turns[0].parts;
  parts.clear();
  parts.emplace_back(ImagePlace{Detail::low});
  parts.emplace_back("between");
  parts.emplace_back(ImagePlace{});
  parts.emplace_back(ImagePlace{Detail::high});
  CHECK((most_tiles({}, asked, 3, false, 12) == std::vector{1, 4, 13}));
  CHECK((most_tiles({2}, asked, 3, false, 12) == std::vector{2, 2, 2}));
  CHECK((most_tiles({}, asked, 3, true, 12) == std::vector{4, 4, 4}));
}

TEST("pictures get fewer tiles where the prompt would not fit, and leave a quarter for the answer") {
  std::vector<PlannedPicture> pictures{picture(560, 224, 40)};
  CHECK(pictures[0].tiles == 41);
  const std::vector conversations{question(1)};
  planner(128).fit(pictures, conversations, false, 1024);
  CHECK(pictures[0].tiles == 11);
  CHECK(pictures[0].max_tiles < 40);

  std::vector<PlannedPicture> fitting{picture(560, 224, 40)};
  planner(512).fit(fitting, conversations, false, 1024);
  CHECK(fitting[0].tiles == 41 && fitting[0].max_tiles == 40);

  // An answer of two tokens needs no quarter.
  std::vector<PlannedPicture> square{picture(200, 200, 40)};
  planner(128).fit(square, conversations, false, 1024);
  const std::int64_t beside_a_quarter = square[0].tiles;
  square = {picture(200, 200, 40)};
  planner(128).fit(square, conversations, false, 2);
  CHECK(square[0].tiles > beside_a_quarter);
}

TEST("a picture that is encoded keeps its tiles, and those that could not fit keep theirs") {
  const std::vector conversations{question(2)};
  std::vector<PlannedPicture> pictures{{100, 100, 0, 15}, picture(560, 224, 40)};
  planner(256).fit(pictures, conversations, false, 1024);
  CHECK(pictures[0].tiles == 15);
  CHECK(pictures[1].tiles == 11);
  std::vector<PlannedPicture> many{{100, 100, 0, 40}, picture(560, 224, 40)};
  planner(256).fit(many, conversations, false, 1024);
  CHECK(many[1].tiles == 41);
}

TEST("a prompt leaves a token for its answer, or is told what helps") {
  const PromptPlanner short_one = planner(128);
  const std::vector<std::int64_t> fits(127, 65);
  const std::vector<std::int64_t> none;
  short_one.check_length(fits, none);
  std::vector<std::int64_t> ids(128, 65);
  CHECK(said<PromptError>([&] { short_one.check_length(ids, none); }) ==
        "the prompt has 128 tokens, and prompt and answer together have a context of 128. What helps: "
        "shorten the text, or load the model with a larger cache_tokens (it takes contexts up to 512).");
  const std::vector<std::int64_t> tiles{5, 5};
  for (std::size_t i = 20; i < 60; ++i) ids[i] = context_id;
  CHECK(said<PromptError>([&] {
          short_one.check_length(ids, tiles);
        }).find("40 of them are for 10 tiles of 2 pictures. What helps: lower max_tiles, or give fewer") !=
        std::string::npos);
  // 127 tokens but for the 88 of text leave 39 of the 40, which is one frame of 20.
  CHECK(said<PromptError>([&] {
          short_one.check_length(ids, tiles, PictureKind::frames);
        }).find("2 frames. What helps: take 1 frames, or load") != std::string::npos);
}

TEST("a text that cannot fit is refused before it is tokenised") {
  // Without a renderer it could not be.
  const PromptPlanner without(byte_tokenizer(), nullptr, facts(), 128);
  Conversation asked{read_question(std::string(2'000'000, 'a'), {}, 0), std::nullopt};
  CHECK(said<PromptError>([&] {
          without.render(asked, {});
        }).find("the text has 2,000,000 characters, which is more than the context of 128 tokens") == 0);
  asked = {read_question("?", {}, 0), std::string(2'000'000, 'a')};
  CHECK_THROWS(PromptError, without.render(asked, {}));
}

}  // namespace
}  // namespace internvl

int main() { return internvl::test::run_all(); }
