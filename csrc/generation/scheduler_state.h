// What the scheduler keeps of its requests; for scheduler*.cpp alone.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "generation/draft.h"
#include "generation/prefix_cache.h"
#include "generation/scheduler.h"
#include "kv_cache/sequence_content.h"
#include "runtime/error.h"

namespace internvl {

// Tokens of an answer that there is room for before it is begun, and that room is taken for at a time.
inline constexpr std::size_t tokens_ahead = 32;

// Of a job that has none, such as one that was put aside.
inline constexpr SequenceId no_sequence = -1;

inline std::exception_ptr closed_error() {
  return std::make_exception_ptr(ClosedError("This model was closed. Load it again."));
}

// A request that the scheduler works on. What is not guarded by the state's mutex belongs to the thread that
// computes for the job in its phase.
struct Scheduler::Job {
  enum class Phase : std::uint8_t { waiting, prompt, writing, parked, held, over };

  // One of the answers, and the sequence that it is written to.
  struct Writing {
    SequenceId sequence;
    std::size_t draft;
  };

  std::shared_ptr<Request> request;
  std::size_t reserved_tokens = 0;  // of a reservation, which has no prompt
  bool reservation = false;

  // Guarded by the mutex.
  Phase phase = Phase::waiting;
  std::uint64_t number = 0;  // in the order of arrival
  std::chrono::steady_clock::time_point arrived = std::chrono::steady_clock::now();
  std::size_t room = 0;        // tokens of the cache that it has, beside those of the prefix
  BlockShares prefix;          // that its sequences share with a kept one
  PrefixCache::Match match;    // of which the sequence of its prompt is to be forked
  bool uses_up = false;        // and the kept sequence goes then
  bool content_known = false;  // which pictures the prompt has
  bool begun = false;          // it had room before

  // The prompt, without places that its tiles turned out not to need; its images once they are encoded.
  SequenceContent content;
  std::vector<float> features;    // [image tokens, hidden], behind those that its sequence had
  std::size_t first_feature = 0;  // the number of the first one
  bool encoded = false;
  Timings timings;
  Usage usage;
  std::size_t most_new_tokens = 0;  // of the longest answer that was asked for
  std::vector<std::unique_ptr<Draft>> drafts;
  std::size_t forks = 0;  // answers that are written to forks of the prompt at once; 0: to the prompt itself
  std::size_t next = 0;   // the first answer that was not begun
  SequenceId prompt = no_sequence;
  std::size_t computed = 0;       // tokens of the prompt that its sequence has from another one
  SequenceId over = no_sequence;  // of an answer that has ended, to be kept
  SequenceContent over_content;
  std::vector<float> logits;                     // after the prompt
  std::vector<Writing> writing;                  // answers that have begun and not ended
  std::size_t sent_tokens = 0;                   // of a streamed answer
  std::vector<EncodedPicture> encoded_pictures;  // where there are no answers to give

  const Question& question() const { return request->question(); }
  const std::vector<std::int64_t>& ids() const { return content.ids; }
  std::size_t most_tokens() const {  // of the answers that are being written
    std::size_t most = 0;
    for (const Writing& one : writing) most = std::max(most, drafts[one.draft]->tokens());
    return most;
  }
  std::size_t computed_image_tokens(std::int64_t image_context_id) const {
    const auto end = ids().begin() + static_cast<std::ptrdiff_t>(computed);
    return static_cast<std::size_t>(std::count(ids().begin(), end, image_context_id));
  }
  // What was added to a streamed answer since the last piece.
  Piece new_piece() {
    Draft& draft = *drafts.front();
    const auto added = draft.token_ids().subspan(sent_tokens);
    sent_tokens += added.size();
    return {draft.new_text(), {added.begin(), added.end()}};
  }
  bool stalled() const { return question().streamed && request->unread_tokens() >= kMostUnreadTokens; }
  void count_tokens(std::int64_t image_context_id) {
    usage.prompt_tokens = ids().size();
    usage.image_tokens = static_cast<std::size_t>(std::count(ids().begin(), ids().end(), image_context_id));
  }
  // What was asked for first goes first.
  bool before(const Job& other) const {
    const int mine = question().priority;
    const int theirs = other.question().priority;
    return mine != theirs ? mine > theirs : number < other.number;
  }
};

// The end of a condition variable or a thread waits for threads that a forked process does not have: there,
// the state is left behind.
struct Scheduler::State {
  explicit State(PrefixCache prefix_cache) : kept(std::move(prefix_cache)) {}

  mutable std::mutex mutex;
  std::condition_variable prompts;  // for the thread that takes requests in turn
  std::condition_variable writes;   // for the one that writes answers
  std::condition_variable released;
  bool write_again = false;  // something has changed for the latter
  bool computing = false;    // the former is computing
  bool closed = false;
  std::uint64_t arrivals = 0;
  std::vector<JobPointer> waiting;  // in their order
  std::vector<JobPointer> active;   // they have room; in their order
  std::vector<JobPointer> parked;   // put aside until their readers have caught up
  std::vector<JobPointer> held;     // reservations that have room
  PrefixCache kept;                 // sequences of requests that are over
  bool blocked = false;             // the first that waits found no room
  std::chrono::steady_clock::time_point blocked_since;
  std::thread prompt_thread;
  std::thread write_thread;

  std::size_t taken() const {
    std::size_t tokens = kept.tokens();
    for (const JobPointer& job : active) tokens += job->room;
    for (const JobPointer& job : held) tokens += job->room;
    return tokens;
  }
  // Tokens of the cache that are taken by nothing but kept sequences.
  std::size_t reclaimable(const BlockShares& but = {}) const {
    std::vector<const BlockShares*> used{&but};
    for (const JobPointer& job : active) used.push_back(&job->prefix);
    return kept.reclaimable(used);
  }
  static void insert(std::vector<JobPointer>& jobs, JobPointer job) {
    const auto place =
        std::upper_bound(jobs.begin(), jobs.end(), job,
                         [](const JobPointer& a, const JobPointer& b) { return a->before(*b); });
    jobs.insert(place, std::move(job));
  }
  void wake_both() {
    write_again = true;
    prompts.notify_one();
    writes.notify_one();
  }
};

}  // namespace internvl
