// A question on its way through the scheduler, and what comes of it.
#pragma once

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "generation/answer.h"
#include "generation/draft.h"
#include "generation/picture_encoder.h"

namespace internvl {

// Tokens that a stream's reader may be behind before no more are computed for it.
inline constexpr std::size_t kMostUnreadTokens = 64;

// What is asked, ready to be computed.
struct Question {
  // The prompt [n]: every tile has tokens_per_tile image context tokens. Empty where pictures are only to be
  // encoded.
  std::vector<std::int64_t> ids;
  std::vector<Picture> pictures;      // in the order of their places
  std::span<const float> features;    // [image tokens, hidden], in place of pictures
  std::shared_ptr<const void> owner;  // of the features
  std::vector<AnswerRequest> answers;
  Timings timings;  // the stages before
  Usage usage;      // tiles
  std::chrono::steady_clock::time_point asked = std::chrono::steady_clock::now();
  int priority = 0;          // larger ones come first
  std::string cache_salt;    // its prompt is reused for requests with the same one, and for no others
  bool streamed = false;     // pieces of its one answer are wanted while it is written
  bool tells_tiles = false;  // and the number of tiles while they are encoded
  bool cancelled = false;    // from the beginning
};

// What was added to a streamed answer by one step: a token, and those behind it that its form forces.
struct Piece {
  std::string text;
  std::vector<std::int64_t> token_ids;
};
// So many tiles are encoded, repeated ones not counted; all of them, once that is over.
struct TilesEncoded {
  std::size_t tiles;
};
// The end: what was added since the last piece. Request::answers() has the rest.
struct Ended {
  Piece rest;
};
using Event = std::variant<TilesEncoded, Piece, Ended>;

// One thread reads it, the scheduler's write it; anybody may cancel it.
class Request {
 public:
  explicit Request(Question question);
  ~Request();
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;
  Request(Request&&) = delete;
  Request& operator=(Request&&) = delete;

  const Question& question() const { return question_; }

  // The next event; none where none came in that time. Rethrows what ended the request, instead of Ended.
  // Throws DeviceError in a process that was forked from the one that asked.
  std::optional<Event> next(std::chrono::milliseconds wait);
  // The answers, in the order in which they were asked for, after Ended.
  const std::vector<Answer>& answers() const { return answers_; }
  // The pictures that were encoded, where there were no answers to give; after Ended.
  std::vector<EncodedPicture>& pictures() { return pictures_; }
  const Timings& timings() const { return timings_; }

  // Ends it early, with what was written so far: between two layers of a prompt or a tile, or after the token
  // that is being computed.
  void cancel();
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
  bool ended() const;
  // Waits until it has ended, without taking its events; false where it has not in that time. In a forked
  // process nothing is computed for it any more.
  bool wait_ended(std::chrono::milliseconds wait) const;

  // 8 bytes are written to this file descriptor, an eventfd, with every event; -1: none.
  void set_event_fd(int fd);

  // For the scheduler.
  void set_wake(std::function<void()> wake);
  void tell_tiles(std::size_t tiles);
  void push(Piece piece);
  std::size_t unread_tokens() const;
  void end(std::vector<Answer> answers, Piece rest);
  void end(std::vector<EncodedPicture> pictures, const Timings& timings);
  void fail(std::exception_ptr failure);

 private:
  // A condition variable's end waits for those who wait at it, which a forked process does not have: there
  // it is left behind.
  struct Channel {
    mutable std::mutex mutex;
    mutable std::condition_variable changed;
    std::deque<Event> events;
    std::exception_ptr failure;
    std::size_t unread_tokens = 0;
    bool ended = false;
    int event_fd = -1;
    std::function<void()> wake;
  };

  void put(Event event);
  // Tells whoever waits that something has come, or that it was the last. The caller holds the mutex.
  static void announce(Channel& channel, bool ends);
  void check_process() const;

  Question question_;
  std::vector<Answer> answers_;
  std::vector<EncodedPicture> pictures_;
  Timings timings_;
  std::atomic<bool> cancelled_{false};
  pid_t process_ = getpid();
  std::unique_ptr<Channel> channel_ = std::make_unique<Channel>();
};

}  // namespace internvl
