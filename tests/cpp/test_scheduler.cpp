#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "generation/scheduler.h"

namespace internvl {
namespace {

using namespace std::chrono_literals;
using Ids = std::vector<std::int64_t>;

constexpr std::int64_t image_id = 0;
constexpr std::int64_t stop_id = 1;
constexpr std::size_t tile_tokens = 4;
constexpr std::int64_t vocab = 64;

// What comes behind ids: a number that follows from all of them, now and then the end.
std::int64_t next_of(const Ids& ids) {
  std::uint64_t state = 0x9E3779B97F4A7C15;
  for (const std::int64_t id : ids) state = (state ^ static_cast<std::uint64_t>(id)) * 0xBF58476D1CE4E5B9 + 1;
  state ^= state >> 29U;
  return state % 50 == 0 ? stop_id : 2 + static_cast<std::int64_t>(state % (vocab - 2));
}

// Sequences of more tokens have other rotary frequencies; the engine takes them for a part of every token.
constexpr std::size_t original_positions = 60;

RopeFacts rope() {
  RopeFacts facts{10'000.0, false, 1.0, 10'000};
  facts.long_factors = {1.0};
  facts.original_positions = original_positions;
  return facts;
}

std::int64_t rotated(std::int64_t value, std::size_t length) {
  return value + 1000 * static_cast<std::int64_t>(rope().frequencies_of(length));
}

// In the place of an image context token: what a tile of pixels of that value has.
std::int64_t feature_of(int pixel) { return 200 + pixel; }

// The answer to a prompt that is computed by itself. `pixels`: of its pictures, a tile each.
Ids expected(const Ids& ids, std::size_t most, const std::vector<int>& pixels = {}) {
  Ids values;
  std::size_t places = 0;
  for (const std::int64_t id : ids) {
    const std::int64_t value = id == image_id ? feature_of(pixels.at(places++ / tile_tokens)) : id;
    values.push_back(rotated(value, ids.size()));
  }
  Ids answer;
  while (answer.size() < most) {
    const std::int64_t id = next_of(values);
    if (id == stop_id) break;
    values.push_back(rotated(id, values.size() + 1));
    answer.push_back(id);
  }
  return answer;
}

// An engine of nothing but ids. It holds the scheduler to its promises: no sequence is used that is not
// there, none by two calls at once, and the cache is never asked for more than it has.
class IdEngine : public Engine {
 public:
  explicit IdEngine(const CacheRoom& cache) : cache_(cache), ledger_(cache.tokens, cache.block_tokens) {}

  const CacheRoom& cache() const override { return cache_; }

  EncodedTiles encode(std::span<const std::uint8_t> tiles, std::size_t count,
                      const Progress& progress) override {
    EncodedTiles made{{}, {}, {}, 1.0, 1.0};
    for (std::size_t i = 0; i < count; ++i) {
      progress(i);
      const int pixel = tiles[i * tiles.size() / count];
      made.features.insert(made.features.end(), tile_tokens * 2, static_cast<float>(feature_of(pixel)));
    }
    encoded += count;
    return made;
  }

  SequenceId new_sequence() override {
    const std::lock_guard lock(mutex_);
    const SequenceId made = ledger_.new_sequence();
    sequences_[made];
    return made;
  }
  SequenceId fork(SequenceId sequence, std::size_t tokens) override {
    const std::lock_guard lock(mutex_);
    Ids copied = sequences_.at(sequence);
    if (tokens > copied.size()) broken = true;
    copied.resize(tokens);
    SequenceId made = 0;
    if (cache_.forks_share) {
      made = ledger_.fork(sequence, tokens);
    } else {
      made = ledger_.new_sequence();
      take_room(made, tokens);
    }
    sequences_[made] = copied;
    return made;
  }
  void drop(SequenceId sequence) override {
    const std::lock_guard lock(mutex_);
    if (sequences_.erase(sequence) == 0) {
      broken = true;
    } else {
      ledger_.drop(sequence);
    }
  }

  std::vector<float> prefill(SequenceId sequence, std::span<const std::int64_t> ids,
                             std::span<const float> features, const Progress& progress) override {
    {
      const std::lock_guard lock(mutex_);
      prompts.emplace_back(ids.begin(), ids.end());
    }
    do progress(0);
    while (gate);
    fail_now_and_then();
    const std::lock_guard lock(mutex_);
    Ids& own = sequences_.at(sequence);
    take_room(sequence, ids.size());
    const std::size_t length = own.size() + ids.size();
    for (const std::int64_t id : ids) {
      std::int64_t value = id;
      if (id == image_id) {
        if (features.size() < 2) throw Error("there are fewer features than places");
        value = static_cast<std::int64_t>(features[0]);
        features = features.subspan(2);
      }
      own.push_back(rotated(value, length));
    }
    if (!features.empty()) throw Error("there are more features than places");
    return logits_after(own);
  }

  std::vector<float> decode(std::span<const SequenceId> sequences, std::span<const std::int64_t> tokens,
                            std::span<const std::size_t> counts) override {
    fail_now_and_then();
    const std::lock_guard lock(mutex_);
    std::vector<float> logits;
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      Ids& own = sequences_.at(sequences[i]);
      take_room(sequences[i], counts[i]);
      for (const std::int64_t token : tokens.first(counts[i])) own.push_back(rotated(token, own.size() + 1));
      tokens = tokens.subspan(counts[i]);
      const std::vector<float> row = logits_after(own);
      logits.insert(logits.end(), row.begin(), row.end());
    }
    largest_batch = std::max(largest_batch, sequences.size());
    return logits;
  }

  std::size_t sequences() const {
    const std::lock_guard lock(mutex_);
    return sequences_.size();
  }

  std::atomic<bool> gate{false};  // prefills wait while it is closed
  std::atomic<bool> broken{false};
  std::atomic<unsigned> failure_in{0};  // a call fails now and then, once in so many; 0: never
  std::atomic<std::size_t> encoded{0};
  std::size_t largest_batch = 0;
  std::vector<Ids> prompts;

 private:
  static std::vector<float> logits_after(const Ids& ids) {
    std::vector<float> logits(vocab, 0.0F);
    logits[static_cast<std::size_t>(next_of(ids))] = 1.0F;
    return logits;
  }
  void take_room(SequenceId sequence, std::size_t tokens) {
    try {
      Ledger::Reservation(ledger_, {&sequence, 1}, tokens).commit();
    } catch (const CacheFullError&) {
      broken = true;  // the scheduler let more into the cache than it holds
      throw;
    }
  }
  void fail_now_and_then() {
    const unsigned in = failure_in;
    if (in != 0 && ++calls_ % in == 0) throw DeviceError("the engine failed");
  }

  CacheRoom cache_;
  mutable std::mutex mutex_;
  Ledger ledger_;
  std::map<SequenceId, Ids> sequences_;
  std::atomic<unsigned> calls_{0};
};

std::shared_ptr<const Tokenizer> letters() {
  std::string vocabulary;
  for (int i = 0; i < vocab; ++i) {
    vocabulary += (i > 0 ? ", \"" : "\"") + std::string(1, static_cast<char>('!' + i + (i > 0) + (i > 57))) +
                  "\": " + std::to_string(i);
  }
  return std::make_shared<Tokenizer>(
      R"({"model": {"type": "BPE", "vocab": {)" + vocabulary +
          R"(}, "merges": []}, "normalizer": null, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}, "decoder": {"type": "ByteLevel"}, "added_tokens": []})",
      TokenizerOptions{});
}

Manifest facts() {
  Manifest manifest;
  manifest.vision.hidden_size = 2;
  manifest.vision.image_size = 4;
  manifest.vision.patch_size = 2;
  manifest.vision.downsample = 1;
  manifest.vision.output_size = 2;
  manifest.llm.decoder.hidden_size = 2;
  manifest.tiling.deviation = {1.0, 1.0, 1.0};
  manifest.llm.decoder.rope = rope();
  manifest.prompt.image_context_id = image_id;
  manifest.prompt.stop_ids = {stop_id};
  return manifest;
}

struct Fixture {
  explicit Fixture(std::size_t cache_tokens, SchedulerOptions options = {1000})
      : Fixture(CacheRoom{cache_tokens, 1, false}, options) {}
  Fixture(const CacheRoom& cache, SchedulerOptions options)
      : engine(std::make_shared<IdEngine>(cache)),
        scheduler(engine, letters(), facts(), std::make_shared<ThreadTeam>(1), options) {}

  std::shared_ptr<IdEngine> engine;
  Scheduler scheduler;
};

Question asked(Ids ids, std::size_t most, std::size_t answers = 1) {
  Question question;
  question.ids = std::move(ids);
  question.answers.resize(answers);
  for (AnswerRequest& answer : question.answers) answer.settings.max_new_tokens = most;
  return question;
}

// One tile.
Picture picture_of(int pixel) {
  const auto pixels =
      std::make_shared<std::vector<std::uint8_t>>(4 * 4 * 3, static_cast<std::uint8_t>(pixel));
  Picture picture;
  picture.pixels = {pixels->data(), 4, 4, 12};
  picture.tiling = {4, 1, 1, false, true};
  picture.owner = pixels;
  return picture;
}

Question streamed(Ids ids, std::size_t most) {
  Question question = asked(std::move(ids), most);
  question.streamed = true;
  return question;
}

// The next event. Throws what ended the request, and where nothing comes.
Event next(Request& request) {
  std::optional<Event> event = request.next(60s);
  if (!event) throw test::Failure{"nothing came"};
  return std::move(*event);
}

// Reads it to its end; the ids of all pieces.
Ids read(Request& request) {
  Ids ids;
  while (true) {
    Event event = next(request);
    const auto* ended = std::get_if<Ended>(&event);
    const Piece* piece = ended != nullptr ? &ended->rest : std::get_if<Piece>(&event);
    if (piece != nullptr) ids.insert(ids.end(), piece->token_ids.begin(), piece->token_ids.end());
    if (ended != nullptr) return ids;
  }
}

Ids answer_of(const std::shared_ptr<Request>& request) {
  read(*request);
  return request->answers().at(0).token_ids;
}

void until(const std::function<bool()>& condition) {
  for (int i = 0; i < 60'000; ++i) {
    if (condition()) return;
    std::this_thread::sleep_for(1ms);
  }
  throw test::Failure{"it never came to that"};
}

// A prompt with a long answer.
Ids talkative(std::size_t least, std::int64_t seed = 0) {
  for (;; ++seed) {
    Ids ids{5, 2 + seed % 60, 2 + seed / 60};
    if (expected(ids, least).size() == least) return ids;
  }
}

TEST("answers are those that requests give one by one, and many are written together") {
  Fixture fixture(100'000);
  fixture.engine->gate = true;
  std::vector<std::shared_ptr<Request>> requests;
  for (std::int64_t i = 0; i < 20; ++i) requests.push_back(fixture.scheduler.submit(asked({i + 2, 7}, 50)));
  fixture.engine->gate = false;
  for (std::int64_t i = 0; i < 20; ++i)
    CHECK(answer_of(requests[static_cast<std::size_t>(i)]) == expected({i + 2, 7}, 50));
  CHECK(fixture.engine->sequences() == 0);
}

TEST("a streamed answer comes in pieces that are the answer") {
  Fixture fixture(1000);
  const Ids prompt = talkative(40);
  const auto request = fixture.scheduler.submit(streamed(prompt, 40));
  CHECK(read(*request) == expected(prompt, 40));
  const Answer& answer = request->answers().at(0);
  CHECK(answer.token_ids == expected(prompt, 40));
  CHECK(answer.finish_reason == FinishReason::length);
  CHECK(answer.usage.new_tokens == 40 && answer.usage.prompt_tokens == prompt.size());
}

TEST("requests go by priority, and by their order where that is equal") {
  Fixture fixture(100'000);
  fixture.engine->gate = true;
  const auto first = fixture.scheduler.submit(asked({9}, 1));
  until([&] { return fixture.scheduler.waiting() == 0; });
  std::vector<std::shared_ptr<Request>> requests;
  for (const auto& [id, priority] : {std::pair{10, 0}, {11, 5}, {12, 0}, {13, 5}, {14, -1}}) {
    Question question = asked({id}, 1);
    question.priority = priority;
    requests.push_back(fixture.scheduler.submit(std::move(question)));
  }
  fixture.engine->gate = false;
  for (const auto& request : requests) read(*request);
  CHECK((fixture.engine->prompts == std::vector<Ids>{{9}, {11}, {13}, {10}, {12}, {14}}));
}

TEST("more than may wait are refused, and so is what the cache cannot hold") {
  Fixture fixture(100, {1000, 2, 1min});
  fixture.engine->gate = true;
  const auto first = fixture.scheduler.submit(asked({9}, 1));
  until([&] { return fixture.scheduler.waiting() == 0; });
  const auto second = fixture.scheduler.submit(asked({10}, 1));
  const auto third = fixture.scheduler.submit(asked({11}, 1));
  CHECK_THROWS(BusyError, fixture.scheduler.submit(asked({12}, 1)));
  fixture.engine->gate = false;
  answer_of(third);
  CHECK_THROWS(CacheFullError, fixture.scheduler.submit(asked({12}, 100)));
  answer_of(fixture.scheduler.submit(asked({12}, 99)));
}

TEST("a stream that nobody reads stops, gives way to who waits, and goes on when it is read") {
  Fixture fixture(300);
  const Ids prompt = talkative(250);
  const auto stream = fixture.scheduler.submit(streamed(prompt, 250));
  until([&] { return stream->unread_tokens() >= kMostUnreadTokens; });
  const Ids other = talkative(200, 500);
  CHECK(answer_of(fixture.scheduler.submit(asked(other, 200))) == expected(other, 200));
  CHECK(stream->unread_tokens() == kMostUnreadTokens);
  CHECK(read(*stream) == expected(prompt, 250));
  CHECK(fixture.engine->sequences() == 0);
}

TEST("answers that grow into each other are written on one after the other") {
  Fixture fixture(300);
  std::vector<std::pair<Ids, std::shared_ptr<Request>>> requests;
  for (std::int64_t i = 0; i < 6; ++i) {
    const Ids prompt = talkative(200, 1000 * i);
    requests.emplace_back(prompt, fixture.scheduler.submit(asked(prompt, 200)));
  }
  for (const auto& [prompt, request] : requests) CHECK(answer_of(request) == expected(prompt, 200));
  CHECK(!fixture.engine->broken);
  CHECK(fixture.engine->prompts.size() > 6);  // some were computed anew
}

TEST("who is urgent takes the room of who is not") {
  Fixture fixture(300);
  const Ids prompt = talkative(250);
  const auto patient = fixture.scheduler.submit(asked(prompt, 250));
  Question question = asked(talkative(200, 700), 200);
  question.priority = 1;
  const Ids urgent = question.ids;
  CHECK(answer_of(fixture.scheduler.submit(std::move(question))) == expected(urgent, 200));
  CHECK(answer_of(patient) == expected(prompt, 250));
}

TEST("several answers share the prompt; where there is no room for all, some wait") {
  for (const std::size_t tokens : {10'000UL, 250UL, 120UL, 105UL}) {
    Fixture fixture(tokens);
    const Ids prompt = talkative(100);
    const auto request = fixture.scheduler.submit(asked(prompt, 100, 5));
    read(*request);
    CHECK(request->answers().size() == 5);
    for (const Answer& answer : request->answers()) CHECK(answer.token_ids == expected(prompt, 100));
    CHECK(fixture.engine->sequences() == 0 && !fixture.engine->broken);
  }
}

TEST("a wait for room has an end, and what needs no room does not wait for it") {
  Fixture fixture(300, {1000, 8, 50ms});
  const auto reserved = fixture.scheduler.reserve(290);
  read(*reserved);
  const auto request = fixture.scheduler.submit(asked({5}, 20));
  Question picture;
  picture.pictures.push_back(picture_of(7));
  const auto encoding = fixture.scheduler.submit(std::move(picture));
  read(*encoding);
  CHECK(encoding->pictures().size() == 1 && fixture.engine->encoded == 1);
  CHECK_THROWS(CacheFullError, read(*request));
  fixture.scheduler.release(*reserved);
  CHECK(answer_of(fixture.scheduler.submit(asked({5}, 20))) == expected({5}, 20));
}

std::shared_ptr<Request> encode(Scheduler& scheduler, int pixel) {
  Question question;
  question.pictures.push_back(picture_of(pixel));
  return scheduler.submit(std::move(question));
}

TEST("a tile that a request encoded is kept for those behind it, and every picture has its own features") {
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{2000}, std::size_t{1} << 20U}) {
    Fixture fixture(300, {.context_tokens = 1000, .tile_cache_bytes = bytes});
    std::atomic<std::size_t> wrong{0};
    std::atomic<std::size_t> cached{0};
    std::vector<std::thread> threads;
    for (std::size_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (std::size_t i = 0; i < 50; ++i) {
          const auto pixel = static_cast<int>((t * 7 + i * i) % 11);
          const auto request = encode(fixture.scheduler, pixel);
          read(*request);
          const EncodedPicture& picture = request->pictures().at(0);
          if (picture.features != std::vector<float>(tile_tokens * 2, static_cast<float>(feature_of(pixel))))
            ++wrong;
          cached += picture.cached_tiles;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong == 0);
    CHECK(fixture.engine->encoded + cached == 200);
    if (bytes == 0) CHECK(cached == 0);
    if (bytes == 2000) CHECK(cached > 0 && cached < 150);  // three of the eleven fit
    if (bytes > 2000) CHECK(fixture.engine->encoded <= 11);
  }
}

TEST("a request can be cancelled wherever it is") {
  Fixture fixture(300);
  fixture.engine->gate = true;
  const auto in_prompt = fixture.scheduler.submit(asked(talkative(200), 200));
  until([&] { return fixture.scheduler.waiting() == 0; });
  const auto waiting = fixture.scheduler.submit(asked({5}, 200));
  for (const auto& request : {waiting, in_prompt}) {
    request->cancel();
    CHECK(answer_of(request).empty());
    CHECK(request->answers()[0].finish_reason == FinishReason::cancelled);
  }
  fixture.engine->gate = false;
  const Ids prompt = talkative(250);
  const auto stalled = fixture.scheduler.submit(streamed(prompt, 250));
  until([&] { return stalled->unread_tokens() >= kMostUnreadTokens; });
  stalled->cancel();
  const Ids whole = expected(prompt, 250);
  CHECK((read(*stalled) == Ids(whole.begin(), whole.begin() + kMostUnreadTokens)));
  CHECK(fixture.engine->sequences() == 0);
}

TEST("closing ends every request, and waits for who uses the engine") {
  auto fixture = std::make_unique<Fixture>(300);
  fixture->engine->gate = true;
  const auto reserved = fixture->scheduler.reserve(10);
  read(*reserved);
  const auto in_prompt = fixture->scheduler.submit(asked({5}, 20));
  const auto waiting = fixture->scheduler.submit(asked({6}, 20));
  std::atomic<bool> closed{false};
  std::thread closing([&] {
    fixture->scheduler.close();
    closed = true;
  });
  CHECK_THROWS(ClosedError, read(*in_prompt));
  CHECK_THROWS(ClosedError, read(*waiting));
  CHECK_THROWS(ClosedError, fixture->scheduler.submit(asked({7}, 1)));
  CHECK(!closed);
  fixture->scheduler.release(*reserved);
  closing.join();
  fixture.reset();
  waiting->cancel();  // a request may outlive its scheduler
}

SchedulerOptions keeping(std::size_t tokens) {
  SchedulerOptions options{1000};
  options.prefix_cache_tokens = tokens;
  return options;
}

// A prompt of that many tokens behind a picture, and a question.
Ids prompt_with_picture(std::int64_t question) {
  Ids ids{5, image_id, image_id, image_id, image_id};
  for (std::int64_t i = 0; i < 20; ++i) ids.push_back(10 + i);
  ids.push_back(question);
  return ids;
}

Answer ask(Fixture& fixture, const Ids& ids, std::size_t most, int pixel, std::string salt = {}) {
  Question question = asked(ids, most);
  if (std::count(ids.begin(), ids.end(), image_id) > 0) question.pictures.push_back(picture_of(pixel));
  question.cache_salt = std::move(salt);
  const auto request = fixture.scheduler.submit(std::move(question));
  read(*request);
  return request->answers().at(0);
}

TEST("what an earlier request has computed of a prompt is not computed again, and gives the same answer") {
  for (const bool share : {false, true}) {
    Fixture fixture(CacheRoom{1024, 16, share}, keeping(1024));
    for (const std::int64_t question : {7, 8, 7}) {
      const Ids ids = prompt_with_picture(question);
      const Answer answer = ask(fixture, ids, 10, 3);
      CHECK(answer.token_ids == expected(ids, 10, {3}));
      CHECK(answer.usage.reused_tokens == (fixture.engine->prompts.size() > 1 ? ids.size() - 1 : 0));
    }
    CHECK(fixture.engine->prompts.back().size() == 1);
  }
}

TEST("a conversation goes on where it stopped") {
  for (const bool share : {false, true}) {
    Fixture fixture(CacheRoom{1024, 16, share}, keeping(1024));
    Ids ids = talkative(20);
    ids.insert(ids.begin(), 14, 3);
    for (int turn = 0; turn < 4; ++turn) {
      const Answer answer = ask(fixture, ids, 8, 0);
      CHECK(answer.token_ids == expected(ids, 8));
      if (turn > 0 && ids.size() <= original_positions) CHECK(answer.usage.reused_tokens + 4 >= ids.size());
      CHECK(fixture.engine->sequences() <= 2);
      ids.insert(ids.end(), answer.token_ids.begin(), answer.token_ids.end());
      ids.insert(ids.end(), {9, 8});
    }
  }
}

TEST("a prompt with another picture, of another user or with other frequencies shares nothing") {
  Fixture fixture(CacheRoom{1024, 4, true}, keeping(1024));
  const Ids ids = prompt_with_picture(7);
  ask(fixture, ids, 3, 3);
  CHECK(ask(fixture, ids, 3, 4).usage.reused_tokens == 0);
  CHECK(ask(fixture, ids, 3, 3, "own").usage.reused_tokens == 0);
  CHECK(ask(fixture, ids, 3, 3, "own").usage.reused_tokens == ids.size() - 1);
  Ids longer = ids;
  longer.resize(original_positions + 1, 30);
  const Answer answer = ask(fixture, longer, 3, 3);
  CHECK(answer.usage.reused_tokens == 0 && answer.token_ids == expected(longer, 3, {3}));
  CHECK(ask(fixture, longer, 3, 3).usage.reused_tokens == longer.size() - 1);
}

TEST("the tiles of a beginning that is reused are not encoded, and those of another user are") {
  SchedulerOptions options = keeping(1024);
  options.tile_cache_bytes = std::size_t{1} << 20U;
  Fixture fixture(CacheRoom{1024, 4, true}, options);
  const Ids ids = prompt_with_picture(7);
  ask(fixture, ids, 3, 3);
  CHECK(fixture.engine->encoded == 1);
  CHECK(ask(fixture, prompt_with_picture(8), 3, 3).usage.cached_tiles == 1 && fixture.engine->encoded == 1);
  Ids other = ids;
  other[0] = 6;
  const Answer answer = ask(fixture, other, 3, 3);
  CHECK(answer.usage.cached_tiles == 1 && answer.usage.reused_tokens == 0 && fixture.engine->encoded == 1);
  CHECK(ask(fixture, ids, 3, 3, "own").usage.cached_tiles == 0 && fixture.engine->encoded == 2);
}

TEST("kept sequences give way to whoever needs the room, the oldest first") {
  Fixture fixture(CacheRoom{64, 4, true}, keeping(64));
  const Ids first = prompt_with_picture(7);
  Ids second = first;
  second[0] = 6;
  ask(fixture, first, 1, 3);
  ask(fixture, second, 1, 3);
  CHECK(ask(fixture, first, 1, 3).usage.reused_tokens == first.size() - 1);
  Ids third = first;
  third[0] = 7;
  ask(fixture, third, 4, 3);
  CHECK(ask(fixture, first, 1, 3).usage.reused_tokens == first.size() - 1);
  CHECK(ask(fixture, second, 1, 3).usage.reused_tokens == 0);
  const Ids all{5, 6, 7};
  CHECK(ask(fixture, all, 61, 0).token_ids == expected(all, 61));
  CHECK(!fixture.engine->broken);
}

TEST("a conversation that fills the cache is not computed again") {
  Fixture fixture(CacheRoom{64, 4, true}, keeping(64));
  Ids ids = prompt_with_picture(7);
  ids.resize(50, 9);
  ask(fixture, ids, 2, 3);
  ids.push_back(11);
  const Answer answer = ask(fixture, ids, 10, 3);
  CHECK(answer.usage.reused_tokens >= 50 && answer.token_ids == expected(ids, 10, {3}));
  CHECK(!fixture.engine->broken);
}

// What threads do with requests at random, against what each request gives by itself.
void run_program(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto draw = [&](std::size_t least, std::size_t most) {
    return least + static_cast<std::size_t>(random() % (most - least + 1));
  };
  const std::size_t cache = draw(8, 25) * 16;
  const std::size_t block = std::array{1, 4, 16}[seed % 3];
  SchedulerOptions options{1000, 1000, 10min};
  if (seed % 4 != 0) options.prefix_cache_tokens = draw(20, cache);
  if (seed % 3 != 0) options.tile_cache_bytes = draw(100, 2000);
  Fixture fixture({cache, block, seed % 2 == 0}, options);
  if (seed % 5 == 0) fixture.engine->failure_in = static_cast<unsigned>(draw(20, 200));
  // Prompts have beginnings in common, with places of pictures among them.
  std::vector<Ids> beginnings(3);
  for (Ids& ids : beginnings) {
    ids.resize(draw(5, 50));
    for (std::int64_t& id : ids) id = 2 + static_cast<std::int64_t>(draw(0, 59));
    const auto place = ids.begin() + static_cast<std::ptrdiff_t>(draw(0, ids.size() - 1));
    if (draw(0, 1) == 0) ids.insert(place, tile_tokens, image_id);
  }
  std::atomic<std::size_t> reused{0};
  std::atomic<unsigned> wrong{0};
  const auto person = [&](std::uint64_t own) {
    std::mt19937_64 dice(own);
    const auto roll = [&](std::size_t sides) { return static_cast<std::size_t>(dice() % sides); };
    for (int turn = 0; turn < 8; ++turn) {
      if (roll(8) == 0) {
        const auto reservation = fixture.scheduler.reserve(roll(cache));
        if (roll(2) == 0) read(*reservation);
        fixture.scheduler.release(*reservation);
        continue;
      }
      Ids prompt = beginnings[roll(beginnings.size())];
      for (std::size_t left = 1 + roll(10); left > 0; --left)
        prompt.push_back(2 + static_cast<std::int64_t>(roll(3)));
      std::vector<Picture> pictures;
      std::vector<int> shown;
      if (std::count(prompt.begin(), prompt.end(), image_id) > 0) {
        shown.push_back(static_cast<int>(7 + roll(2)));
        pictures.push_back(picture_of(shown[0]));
      }
      const std::size_t most = 1 + roll(cache - prompt.size());
      const bool stream = roll(2) == 0;
      Question question = stream ? streamed(prompt, most) : asked(prompt, most, 1 + roll(3));
      question.priority = static_cast<int>(roll(3));
      question.pictures = pictures;
      if (roll(3) == 0) question.cache_salt = "own";
      const auto request = fixture.scheduler.submit(std::move(question));
      const Ids whole = expected(prompt, most, shown);
      const std::size_t leave_after = roll(3) == 0 ? roll(100) : 100'000;
      try {
        Ids got;
        bool ended = false;
        for (std::size_t events = 0; !ended; ++events) {
          if (events == leave_after) request->cancel();
          if (roll(50) == 0) std::this_thread::sleep_for(std::chrono::microseconds(roll(2000)));
          Event event = next(*request);
          const auto* end = std::get_if<Ended>(&event);
          const Piece* piece = end != nullptr ? &end->rest : std::get_if<Piece>(&event);
          if (piece != nullptr) got.insert(got.end(), piece->token_ids.begin(), piece->token_ids.end());
          ended = end != nullptr;
        }
        for (const Answer& answer : request->answers()) {
          reused += answer.usage.reused_tokens;
          const Ids& ids = answer.token_ids;
          const bool beginning =
              ids.size() <= whole.size() && std::equal(ids.begin(), ids.end(), whole.begin());
          const bool cancelled = answer.finish_reason == FinishReason::cancelled;
          wrong += !beginning || (!cancelled && ids != whole) || (cancelled && leave_after == 100'000);
          wrong += stream && got != ids;
        }
      } catch (const DeviceError&) {
        wrong += fixture.engine->failure_in == 0;
      }
    }
  };
  std::vector<std::thread> people;
  for (std::size_t i = 0; i < 6; ++i) people.emplace_back(person, random());
  for (std::thread& one : people) one.join();
  CHECK(wrong == 0);
  CHECK(!fixture.engine->broken);
  CHECK(options.prefix_cache_tokens > 0 || reused == 0);
  fixture.scheduler.close();
  CHECK(fixture.engine->sequences() == 0);
}

TEST("whatever many threads ask, each request gives what it gives alone") {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) run_program(seed);
}

}  // namespace
}  // namespace internvl

int main() { return internvl::test::run_all(); }
