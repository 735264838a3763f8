// Makes the calls that the test compares with Python's, and prints a line for each:
//
//   calls BUNDLE PICTURE.rgb WIDTH HEIGHT OTHER.rgb
#include <internvl/model.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace {

using internvl::Answer;
using internvl::Image;
using internvl::Model;
using internvl::Session;

std::vector<std::uint8_t> read(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return std::vector<std::uint8_t>(std::istreambuf_iterator<char>(file), {});
}

void print(const char* name, const Answer& answer) {
  const char* reasons[] = {"stop", "length", "cancelled"};
  std::cout << name << "\t" << answer.text << "\t" << reasons[static_cast<int>(answer.finish_reason)] << "\t"
            << answer.usage.tiles << " " << answer.usage.tiles_wanted << " " << answer.usage.image_tokens
            << " " << answer.usage.prompt_tokens << " " << answer.usage.new_tokens << " "
            << answer.usage.forced_tokens << " " << answer.usage.dropped_turns << "\t";
  for (const std::int64_t id : answer.token_ids) std::cout << id << " ";
  std::cout << "\t" << answer.grounding_text << "\n";
}

// Of a call that has a salt of its own: what is reused does not depend on the calls before.
void print_reused(const char* name, const Answer& answer) {
  print(name, answer);
  std::cout << answer.usage.reused_tokens << " " << answer.usage.cached_tiles << "\n";
}

void require(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(what);
}

template <class Kind, class Call>
void require_error(const char* words, Call call) {
  try {
    call();
  } catch (const Kind& error) {
    require(std::string(error.what()).find(words) != std::string::npos, error.what());
    return;
  }
  throw std::runtime_error(std::string("no error about ") + words);
}

// The headers say them a second time, to be read.
void check_defaults() {
  internvl_load_options load;
  internvl_load_options_init(&load, sizeof load);
  const internvl::LoadOptions own_load;
  require(own_load.max_waiting == load.max_waiting && own_load.max_wait_s == load.max_wait_s,
          "LoadOptions have other defaults");
  internvl_ask_options ask;
  internvl_ask_options_init(&ask, sizeof ask);
  const internvl::AskOptions own;
  require(own.max_new_tokens == ask.max_new_tokens && own.do_sample == (ask.do_sample != 0) &&
              own.temperature == ask.temperature && own.top_p == ask.top_p && own.top_k == ask.top_k &&
              own.repetition_penalty == ask.repetition_penalty && own.priority == ask.priority,
          "AskOptions have other defaults");
  require(ask.max_new_tokens == 1024 && ask.top_k == 50 && ask.answers == 1 && load.max_waiting == 256,
          "the library has other defaults than its documentation");
}

void check_errors(const Model& model, const Image& picture) {
  require_error<internvl::BundleError>("/nowhere", [] { Model::load("/nowhere"); });
  require_error<internvl::PromptError>("threads", [&] { Model::load("/nowhere", {.threads = 0}); });
  require_error<internvl::ImageError>("found 41", [&] { model.chat("?", {picture}, {.max_tiles = 41}); });
  require_error<internvl::ImageError>("found -1", [&] { model.chat("?", {picture}, {.max_tiles = 0}); });
  require_error<internvl::PromptError>(
      "both say", [&] { model.chat("?", {picture}, {.max_tiles = 2, .detail = internvl::Detail::low}); });
  require_error<internvl::PromptError>("2 image places", [&] { model.chat("<image><image>", {picture}); });
  require_error<internvl::PromptError>("top_p must be a number above 0 and at most 1, not 0.0",
                                       [&] { model.chat("?", {}, {.top_p = 0.0}); });
  require_error<internvl::PromptError>("priority must be an integer from -1000 to 1000, not 1001",
                                       [&] { model.chat("?", {}, {.priority = 1001}); });
  require_error<internvl::PromptError>("would be the same", [&] { model.answers("?", {}, 2); });
  require_error<internvl::PromptError>("shorten the text", [&] { model.chat(std::string(40000, 'x')); });
  require_error<internvl::PromptError>("more than the context",
                                       [&] { model.chat(std::string(2'000'000, 'x')); });
  require_error<internvl::ImageError>("no data", [&] { model.chat("?", {Image::rgb(nullptr, 1, 1)}); });
}

void check_tile_cache(const char* bundle, const Model& model, const Image& picture) {
  const internvl::AskOptions options{.max_new_tokens = 8, .max_tiles = 6};
  require(model.tile_cache_bytes() > 0, "no tile cache by default");
  model.chat("What is on the table?", {picture}, options);
  const Answer again = model.chat("What is on the table?", {picture}, options);
  require(again.usage.cached_tiles == again.usage.tiles && again.usage.tiles > 1, "tiles were encoded again");
  const Model off = Model::load(
      bundle, {.threads = 2, .cache_tokens = 2048, .tile_cache_bytes = 0, .prefix_cache_tokens = 0});
  require(off.tile_cache_bytes() == 0, "0 does not turn the tile cache off");
  for (int i = 0; i < 2; ++i) {
    const Answer same = off.chat("What is on the table?", {picture}, options);
    require(same.usage.cached_tiles == 0 && same.token_ids == again.token_ids, "the cache changes answers");
  }
  for (const std::int64_t bytes : {-1, -2, -1000}) {
    require_error<internvl::PromptError>("tile_cache_bytes", [&] {
      internvl::LoadOptions options;
      options.tile_cache_bytes = bytes;
      Model::load(bundle, options);
    });
  }
}

// The conversation that the test has in Python too.
void print_sessions(const Model& model, std::vector<std::uint8_t> pixels, const Image& second,
                    std::int64_t width, std::int64_t height) {
  const std::string salt = "sessions";
  Session session = model.session("You see tables.");
  const Image frame = Image::rgb(pixels.data(), width, height);
  internvl::Stream seen = session.stream("What is on the table?", {frame},
                                         {.max_new_tokens = 12, .max_tiles = 2, .cache_salt = salt});
  std::fill(pixels.begin(), pixels.end(), std::uint8_t{0});  // the buffer is the caller's again
  print_reused("session: a picture", seen.read([](std::string_view) { return true; }));
  const Answer again = session.ask("And what else?", {}, {.max_new_tokens = 12, .cache_salt = salt});
  require(again.usage.reused_tokens > 0, "the conversation was computed again");
  print_reused("session: a text", again);
  Session branch = session.fork();
  print_reused("session: two tiles", session.ask({internvl::Message{"user", {second, "What is different?"}}},
                                                 {.max_new_tokens = 12, .max_tiles = 1, .cache_salt = salt}));
  print_reused("session: a branch",
               branch.ask("Is there a ball?", {}, {.choices = {"yes", "no", "perhaps"}, .cache_salt = salt}));
  print_reused(
      "session: drawn",
      session.ask(
          "And where?", {},
          {.max_new_tokens = 12, .do_sample = true, .temperature = 1.5, .seed = 7, .cache_salt = salt}));
  // More than the context holds.
  Session text = model.session();
  std::string words;
  for (int i = 0; i < 250; ++i) words += " ball";
  bool dropped = false;
  for (int i = 0; i < 8; ++i) {
    const Answer answer = text.ask("What?" + words, {}, {.max_new_tokens = 6, .ignore_stop_tokens = true});
    dropped = dropped || answer.usage.dropped_turns > 0;
    print("session: long", answer);
  }
  require(dropped, "the context took more than it holds");
}

void check_sessions(const char* bundle, const Model& model, const Image& picture) {
  const internvl::AskOptions brief{.max_new_tokens = 8, .ignore_stop_tokens = true};
  const internvl::AskOptions endless{.max_new_tokens = 300, .ignore_stop_tokens = true};
  Session session = model.session();
  session.ask("What is on the table?", {picture}, {.max_new_tokens = 8, .max_tiles = 1});
  const auto as_before = [&](const Session& same) {
    return session.fork().ask("And what else?", {}, brief).usage.prompt_tokens ==
           same.fork().ask("And what else?", {}, brief).usage.prompt_tokens;
  };
  const Session before = session.fork();

  // What fails is not part of the conversation.
  require_error<internvl::ImageError>("found 41", [&] { session.ask("?", {picture}, {.max_tiles = 41}); });
  require_error<internvl::PromptError>("shorten the text", [&] { session.ask(std::string(40000, 'x')); });
  for (const internvl::AskOptions& options :
       {internvl::AskOptions{.history = {{"Red?", "Yes."}}}, internvl::AskOptions{.system = "You see."}}) {
    require_error<internvl::PromptError>("leave them out", [&] { session.ask("?", {}, options); });
  }
  require_error<internvl::PromptError>("one question at a time", [&] {
    session.ask({internvl::Message{"user", {"Red?"}}, internvl::Message{"assistant", {"Yes."}},
                 internvl::Message{"user", {"Round?"}}});
  });
  require(as_before(before), "a question that failed was remembered");

  // One question at a time; one that is dropped is not part of the conversation either.
  {
    internvl::Stream stream = session.stream("Describe it.", {}, endless);
    stream.next();
    require_error<internvl::PromptError>("answering another question", [&] { session.ask("And?"); });
    require_error<internvl::PromptError>("answering another question", [&] { session.fork(); });
  }
  require(as_before(before), "a question whose stream was dropped was remembered");
  require_error<std::logic_error>("enough", [&] {
    session.stream("Hi", {}, endless, [](std::string_view) -> bool { throw std::logic_error("enough"); });
  });
  require(as_before(before), "a question whose reader threw was remembered");

  // One that is cancelled is, with what was written.
  const Answer ended =
      session.stream("Describe it.", {}, endless, [](std::string_view) -> bool { return false; });
  require(ended.finish_reason == internvl::FinishReason::cancelled, "nothing was cancelled");
  require(!as_before(before), "a question that was cancelled was forgotten");

  // Closed while it answers. A stream goes on without its session.
  internvl::Stream stream = session.stream("Describe it.", {}, endless);
  session.close();
  session.close();
  require(
      stream.read([](std::string_view) { return true; }).finish_reason == internvl::FinishReason::cancelled,
      "close() left the answer");
  require_error<internvl::PromptError>("was closed", [&] { session.ask("And?"); });
  require_error<internvl::PromptError>("was closed", [&] { session.fork(); });
  internvl::Stream alone = model.session().stream("Hello", {}, brief);
  require(alone.read([](std::string_view) { return true; }).usage.new_tokens == 8, "the stream ended early");

  std::optional<Session> left;
  {
    const Model other = Model::load(bundle, {.cache_tokens = 1024});
    left = other.session();
    left->ask("Hello", {}, brief);
    Session closed = other.session();
    other.close();
    require_error<internvl::ClosedError>("closed", [&] { closed.ask("Hello"); });
    require_error<internvl::ClosedError>("closed", [&] { other.session(); });
  }
  require_error<internvl::ClosedError>("closed", [&] { left->ask("Hello"); });
}

void check_prefix_cache(const char* bundle, const Model& model) {
  std::string text = "What is on the table?";
  for (int i = 0; i < 100; ++i) text += " ball";
  const auto ask = [&](const Model& asked, const std::string& salt) {
    return asked.chat(text, {}, {.max_new_tokens = 8, .ignore_stop_tokens = true, .cache_salt = salt});
  };
  const std::string salt("mine\0too", 8);
  const Answer first = ask(model, salt);
  const Answer again = ask(model, salt);
  require(first.usage.reused_tokens == 0 && again.usage.reused_tokens > 0, "a prompt was computed twice");
  require(ask(model, "mine").usage.reused_tokens == 0, "a prompt of another salt was reused");
  require(again.token_ids == first.token_ids, "what is reused changes answers");
  const Model off = Model::load(bundle, {.threads = 2, .cache_tokens = 2048, .prefix_cache_tokens = 0});
  for (int i = 0; i < 2; ++i) {
    const Answer same = ask(off, salt);
    require(same.usage.reused_tokens == 0 && same.token_ids == first.token_ids, "0 does not turn it off");
  }
  for (const std::int64_t tokens : {-1, -2, -1000}) {
    require_error<internvl::PromptError>("prefix_cache_tokens", [&] {
      internvl::LoadOptions options;
      options.prefix_cache_tokens = tokens;
      Model::load(bundle, options);
    });
  }
}

void check_streams(const Model& model, const Image& picture) {
  const internvl::AskOptions options{.max_new_tokens = 40, .ignore_stop_tokens = true};
  const Answer whole = model.chat("What is on the table?", {picture}, options);

  std::string text;
  std::vector<std::int64_t> ids;
  internvl::Stream stream = model.stream("What is on the table?", {picture}, options);
  while (const std::optional<internvl::Piece> piece = stream.next()) {
    text += piece->text;
    ids.insert(ids.end(), piece->token_ids.begin(), piece->token_ids.end());
  }
  require(text == whole.text && ids == whole.token_ids, "the pieces are not the answer");
  require(stream.answer() != nullptr && stream.answer()->text == whole.text, "the stream has another answer");
  require(!stream.next(), "a piece came behind the end");

  // A reader that has had enough.
  int pieces = 0;
  const internvl::AskOptions long_one{.max_new_tokens = 300, .ignore_stop_tokens = true};
  const Answer ended = model.stream("What is on the table?", {picture}, long_one,
                                    [&](std::string_view) { return ++pieces < 3; });
  require(pieces == 3, "the reader was called again");
  require(ended.finish_reason == internvl::FinishReason::cancelled && ended.usage.new_tokens < 300,
          "the answer went on");

  // Cancelled by another thread.
  internvl::Stream other = model.stream("What is on the table?", {picture}, long_one);
  std::thread canceller([&] { other.cancel(); });
  while (other.next()) {
  }
  canceller.join();
  require(other.answer()->finish_reason == internvl::FinishReason::cancelled, "nothing was cancelled");

  // Forgotten.
  {
    const internvl::Stream forgotten = model.stream("What is on the table?", {picture}, long_one);
  }

  // A reader that throws.
  require_error<std::logic_error>("enough", [&] {
    model.stream("Hi", {}, long_one, [](std::string_view) -> bool { throw std::logic_error("enough"); });
  });
}

void check_threads(const Model& model, const Image& picture) {
  const Answer alone = model.chat("What is on the table?", {picture});
  std::vector<std::string> texts(4);
  std::vector<std::thread> threads;
  for (std::string& text : texts) {
    threads.emplace_back([&] { text = model.chat("What is on the table?", {picture}).text; });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& text : texts) require(text == alone.text, "threads have other answers");
}

void check_closing(const std::string& bundle) {
  std::optional<internvl::Stream> left;
  {
    const Model model = Model::load(bundle, {.cache_tokens = 1024});
    require(model.cache_tokens() == 1024 && model.context_tokens() <= 1024 && !model.name().empty(),
            "no facts");
    left = model.stream("Hi", {}, {.max_new_tokens = 900, .ignore_stop_tokens = true});
    left->next();
  }
  require_error<internvl::ClosedError>("closed", [&] {
    while (left->next()) {
    }
  });
  const Model model = Model::load(bundle, {.cache_tokens = 1024});
  model.close();
  require_error<internvl::ClosedError>("closed", [&] { model.chat("Hi"); });
}

}  // namespace

int main(int, char** argv) {
  try {
    const std::vector<std::uint8_t> pixels = read(argv[2]);
    const std::vector<std::uint8_t> other = read(argv[5]);
    const Image picture = Image::rgb(pixels.data(), std::stol(argv[3]), std::stol(argv[4]));
    const Image second = Image::rgb(other.data(), std::stol(argv[3]), std::stol(argv[4]));
    const Model model = Model::load(argv[1], {.threads = 2, .cache_tokens = 2048});

    print("chat", model.chat("What is on the table?", {picture}));
    print("tiles", model.chat("What is on the table?", {picture}, {.max_new_tokens = 32, .max_tiles = 6}));
    print("high", model.chat("What is on the table?", {picture},
                             {.max_new_tokens = 8, .detail = internvl::Detail::high}));
    print("text", model.chat("Hello", {}, {.max_new_tokens = 12}));
    print("two",
          model.chat("<image>\n<image>\nWhat is different?", {picture, second}, {.max_new_tokens = 24}));
    print("one place",
          model.chat("What?", {picture, second}, {.max_new_tokens = 8, .max_tiles = 2, .as_one = true}));
    print("history", model.chat("And what else?", {picture},
                                {.max_new_tokens = 24,
                                 .history = {{"<image>\nWhat is on the table?", "A red ball."}},
                                 .system = "You see tables."}));
    print("messages", model.chat({internvl::Message{"system", {"You see tables."}},
                                  internvl::Message{"user",
                                                    {internvl::ImageItem(picture, internvl::Detail::low),
                                                     second, "What is different?"}}},
                                 {.max_new_tokens = 24}));
    print("choices", model.chat("Is there a ball?", {picture}, {.choices = {"yes", "no", "perhaps"}}));
    print("stop", model.chat("What is on the table?", {picture}, {.stop = {"and", "a"}}));
    print("grounding",
          model.chat("Please provide the bounding box coordinate of the region this sentence describes: "
                     "<ref>red ball</ref>",
                     {picture}, {.keep_special_tokens = internvl::KeepTokens::grounding}));
    for (const Answer& answer : model.answers("What is on the table?", {picture}, 3,
                                              {.max_new_tokens = 12,
                                               .do_sample = true,
                                               .temperature = 1.5,
                                               .top_p = 0.95,
                                               .repetition_penalty = 1.1,
                                               .seed = 7})) {
      print("several", answer);
    }
    print_sessions(model, pixels, second, std::stol(argv[3]), std::stol(argv[4]));
    check_defaults();
    check_errors(model, picture);
    check_tile_cache(argv[1], model, picture);
    check_prefix_cache(argv[1], model);
    check_sessions(argv[1], model, picture);
    check_streams(model, picture);
    check_threads(model, picture);
    check_closing(argv[1]);
    print("after all", model.chat("What is on the table?", {picture}));
  } catch (const std::exception& error) {
    std::cerr << "FAILED: " << error.what() << "\n";
    return 1;
  }
}
