// One scheduler per model: many requests at once on one engine and one KV cache.
#pragma once

#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bundle/manifest.h"
#include "generation/engine.h"
#include "generation/picture_encoder.h"
#include "generation/prefix_cache.h"
#include "generation/request.h"
#include "generation/tile_cache.h"
#include "prompt/tokenizer.h"
#include "runtime/thread_team.h"

namespace internvl {

struct SchedulerOptions {
  std::size_t context_tokens;                                    // a prompt and its answer end here
  std::size_t max_waiting = 256;                                 // requests that wait for their turn
  std::chrono::milliseconds max_wait = std::chrono::minutes(5);  // for room in the cache
  std::size_t tile_cache_bytes = 0;                              // see TileCache, as the next
  int frame_tolerance = 0;
  // Of the cache, what requests that are over may keep for those that begin as they did, where nobody else
  // needs the room; 0: nothing.
  std::size_t prefix_cache_tokens = 0;
};

// Requests wait in a queue: those of a higher priority first, equal ones as they came. One thread takes them
// in turn, encodes their pictures and prefills their prompts; another writes all answers together, a token of
// each a step, and comes to its turn at the engine between two layers of what the first computes. So an
// answer that is being written waits for a layer of somebody else's prompt or tile at the longest.
//
// A request needs room in the cache for its prompt and the first tokens of its answers before anything is
// computed for it. Where answers grow into each other, the one that came last is put aside: its place in the
// cache is given up, and later its prompt is prefilled again and its tokens decoded again, to the same bits
// on an engine that keeps them. The one that came first always goes on. A stream whose reader falls behind
// stops being written, and gives up its place to whoever waits for one.
//
// Tiles that were encoded are kept for the requests that come after, see TileCache.
//
// No lock of the scheduler is held while the engine, a constraint or a wake of a request is called. All
// methods may be called from any thread; in a process that was forked from the scheduler's, they throw
// DeviceError.
class Scheduler {
 public:
  Scheduler(std::shared_ptr<Engine> engine, std::shared_ptr<const Tokenizer> tokenizer,
            const Manifest& manifest, std::shared_ptr<ThreadTeam> team, const SchedulerOptions& options);
  // Ends all requests, as close() does. In a forked process, leaves everything as it is.
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;
  Scheduler(Scheduler&&) = delete;
  Scheduler& operator=(Scheduler&&) = delete;

  // Cuts a picture into tiles as submit() does, which takes it as it comes. Throws ImageError.
  Picture cut(Picture picture, std::string_view salt);

  // Cuts the pictures into tiles. Throws ImageError if one is out of range, BusyError if too many requests
  // wait, CacheFullError if the cache is smaller than what the request needs by itself, ClosedError after
  // close(). A request that waits for room longer than max_wait ends with CacheFullError.
  std::shared_ptr<Request> submit(Question question);

  // Room for calls to the engine from elsewhere: the request ends when the room is there, and keeps it until
  // release(). Throws as submit().
  std::shared_ptr<Request> reserve(std::size_t tokens);
  // Gives the room back, or ends the wait for it.
  void release(const Request& reservation);

  // Throws ClosedError, or DeviceError in a forked process.
  void check_open() const;

  // Ends all requests with ClosedError. Calling it twice is fine.
  void end_requests();
  // Waits until nobody has room any more that reserve() gave, at most so long.
  void wait_unused(std::chrono::milliseconds most) const;
  // Both, and waits until nobody uses the engine any more: what reserve() gave has been released.
  void close();

  std::size_t waiting() const;

 private:
  struct Job;
  struct State;
  using JobPointer = std::shared_ptr<Job>;

  std::shared_ptr<Request> enqueue(JobPointer job);
  void check_process() const;
  void check_takes_more() const;

  // What the thread that takes requests in turn has to do next.
  struct Admission {
    JobPointer job;
    PrefixCache::Kept evicted;
  };

  // On the thread that takes requests in turn.
  Admission admit();
  void use_prefix(Job& job, const PrefixCache::Match& match, BlockShares shared, bool used_up);
  void find_prefix(Job& job);
  void begin_sequence(Job& job);
  void prompt_loop();
  void compute_prompt(const JobPointer& job);
  void encode_pictures(Job& job);
  void add_features(Job& job, std::span<const float> features) const;
  void replay(Job& job);
  void go_on_unless_ended(const Job& job) const;

  // On the thread that writes answers.
  void write_loop();
  bool settle();
  bool grow(Job& job) const;
  JobPointer who_gives_way(const Job& job) const;
  JobPointer who_makes_room(const Job& job) const;
  JobPointer who_waited_too_long() const;
  bool waits_for_room(const Job& job) const;
  std::chrono::steady_clock::time_point expiry_of(const Job& job) const;
  std::chrono::steady_clock::time_point next_expiry() const;
  void step(std::span<const JobPointer> batch);
  void go_on(const JobPointer& job, std::span<const float> logits,
             std::chrono::steady_clock::time_point begun);
  void choose(Job& job, std::size_t draft, std::span<const float> logits,
              std::chrono::steady_clock::time_point begun);
  bool begin_answers(Job& job, std::chrono::steady_clock::time_point begun);
  void drop_ended(Job& job);
  void keep_over(Job& job, SequenceId sequence, const Draft* draft);

  // The end of a job: its sequences are dropped, its room is given back, its request is told.
  void finish(const JobPointer& job);
  void fail(const JobPointer& job, const std::exception_ptr& failure);
  void leave(const JobPointer& job);
  void put_aside(const JobPointer& job);
  void drop(SequenceId sequence) { drop(sequence, *engine_); }
  static void drop(SequenceId sequence, Engine& engine);
  void drop_sequences(Job& job) { drop_sequences(job, *engine_); }
  static void drop_sequences(Job& job, Engine& engine);
  void drop_kept(std::span<const PrefixCache::Kept> kept) { drop_kept(kept, *engine_); }
  void drop_kept(std::span<const PrefixCache::Kept> kept, Engine& engine);
  std::vector<PrefixCache::Kept> give_back_room(Job& job);

  std::size_t free_tokens() const;
  std::size_t needed(const Job& job, std::size_t added) const;
  std::size_t frequencies_of(const Job& job) const;
  std::string waited_in_vain(const Job& job) const;

  std::shared_ptr<Engine> engine_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::shared_ptr<ThreadTeam> team_;
  PictureFacts picture_facts_;
  TileCache tile_cache_;
  std::int64_t image_context_id_;
  std::vector<std::int64_t> stop_ids_;
  RopeFacts rope_;
  SchedulerOptions options_;
  CacheRoom cache_;
  pid_t process_ = getpid();
  std::shared_ptr<State> state_;  // what wakes a request's scheduler has it too
};

}  // namespace internvl
