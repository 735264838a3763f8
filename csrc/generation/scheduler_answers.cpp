// Of the scheduler, the thread that writes all answers together.
#include <algorithm>
#include <chrono>
#include <mutex>
#include <utility>

#include "generation/scheduler_state.h"
#include "runtime/error.h"

namespace internvl {
namespace {

using Clock = std::chrono::steady_clock;

// Between two tokens of an answer while somebody's prompt or picture is computed: the answers would take most
// of the time otherwise, and whoever waits for their prompts could not join them.
constexpr std::chrono::milliseconds between_tokens(50);

}  // namespace

void Scheduler::write_loop() {
  State& state = *state_;
  Clock::time_point last_step;
  while (true) {
    if (settle()) continue;
    std::vector<JobPointer> batch;
    JobPointer aside;
    PrefixCache::Kept evicted;
    {
      std::unique_lock lock(state.mutex);
      if (state.closed) return;
      const Clock::time_point due = state.computing ? last_step + between_tokens : Clock::time_point();
      const bool early = Clock::now() < due;
      for (const JobPointer& job : state.active) {
        if (job->phase != Job::Phase::writing || job->stalled()) continue;
        if (early && !job->writing.empty()) continue;
        if (grow(*job)) {
          batch.push_back(job);
          continue;
        }
        evicted = state.kept.take_oldest();
        if (!evicted) aside = who_gives_way(*job);
        if (evicted || aside) break;
      }
      if (!evicted && !aside && batch.empty()) {
        const auto woken = [&] { return state.write_again || state.closed; };
        if (early || state.blocked) {
          const Clock::time_point expiry = state.blocked ? next_expiry() : due;
          state.writes.wait_until(lock, early ? std::min(due, expiry) : expiry, woken);
        } else {
          state.writes.wait(lock, woken);
        }
        state.write_again = false;
        continue;
      }
    }
    if (evicted) {
      drop_kept({&evicted, 1});
    } else if (aside) {
      put_aside(aside);
    } else {
      // Answers that only begin keep nobody waiting.
      const auto goes_on = [](const JobPointer& job) { return !job->writing.empty(); };
      const bool decodes = std::any_of(batch.begin(), batch.end(), goes_on);
      step(batch);
      if (decodes) last_step = Clock::now();
    }
  }
}

// Takes room for the tokens that the next step appends, and for some behind them where there is room. The
// caller holds the mutex.
bool Scheduler::grow(Job& job) const {
  const std::size_t least = needed(job, 0);
  if (least <= job.room) return true;
  const std::size_t left = job.room + free_tokens();
  if (least > left) return false;
  job.room = std::min(needed(job, tokens_ahead), left);
  return true;
}

// Who is put aside where a job finds no room to go on: a stream that nobody reads, else whoever came last.
// The caller holds the mutex.
Scheduler::JobPointer Scheduler::who_gives_way(const Job& job) const {
  JobPointer last;
  for (const JobPointer& other : state_->active) {
    if (other->phase != Job::Phase::writing || other.get() == &job) continue;
    if (other->stalled()) return other;
    if (job.before(*other)) last = other;
  }
  return last;
}

// Whether it has computed nothing yet and needs room to begin.
bool Scheduler::waits_for_room(const Job& job) const { return !job.begun && needed(job, tokens_ahead) > 0; }

// When a job that waits for room has waited long enough. The caller holds the mutex, and somebody is blocked.
Clock::time_point Scheduler::expiry_of(const Job& job) const {
  return std::max(job.arrived, state_->blocked_since) + options_.max_wait;
}

// When the first of those that wait has waited long enough. The caller holds the mutex, and somebody is
// blocked.
Clock::time_point Scheduler::next_expiry() const {
  Clock::time_point next = Clock::now() + std::chrono::hours(1);
  for (const JobPointer& job : state_->waiting) {
    if (waits_for_room(*job)) next = std::min(next, expiry_of(*job));
  }
  return next;
}

// Does one thing that is due beside writing: ends a request that was cancelled or has waited too long for
// room, lets a stream go on whose reader has caught up, or puts somebody aside for who waits. False if
// nothing was due.
bool Scheduler::settle() {
  State& state = *state_;
  JobPointer ended;
  JobPointer aside;
  std::exception_ptr failure;
  {
    const std::lock_guard lock(state.mutex);
    if (state.closed) return false;
    for (const auto* jobs : {&state.waiting, &state.parked, &state.active}) {
      for (const JobPointer& job : *jobs) {
        if (job->request->cancelled() && job->phase != Job::Phase::prompt) ended = job;
      }
    }
    if (!ended) {
      const auto caught_up = std::find_if(state.parked.begin(), state.parked.end(),
                                          [](const JobPointer& job) { return !job->stalled(); });
      if (caught_up != state.parked.end()) {
        JobPointer job = std::move(*caught_up);
        state.parked.erase(caught_up);
        job->phase = Job::Phase::waiting;
        State::insert(state.waiting, std::move(job));
        state.prompts.notify_one();
        return true;
      }
    }
    if (!ended && state.blocked && !state.waiting.empty()) {
      aside = who_makes_room(*state.waiting.front());
      if (!aside) ended = who_waited_too_long();
      if (ended) failure = std::make_exception_ptr(CacheFullError(waited_in_vain(*ended)));
    }
    // Out of the other thread's reach.
    for (auto* jobs : {&state.waiting, &state.parked}) std::erase(*jobs, ended);
  }
  if (ended && failure) {
    fail(ended, failure);
  } else if (ended) {
    finish(ended);
  } else if (aside) {
    put_aside(aside);
  }
  return ended || aside;
}

// The first of those that have waited for room longer than they may; null if there is none. The caller holds
// the mutex.
Scheduler::JobPointer Scheduler::who_waited_too_long() const {
  const Clock::time_point now = Clock::now();
  for (const JobPointer& job : state_->waiting) {
    if (waits_for_room(*job) && now >= expiry_of(*job)) return job;
  }
  return nullptr;
}

// Who is put aside for a job that waits: streams that nobody reads and requests of a lower priority, the last
// first, if together they have the room. The caller holds the mutex.
Scheduler::JobPointer Scheduler::who_makes_room(const Job& job) const {
  std::size_t free = free_tokens() + state_->reclaimable();
  const std::size_t wanted = needed(job, tokens_ahead);
  if (wanted <= free) return nullptr;
  JobPointer last;
  for (const JobPointer& other : state_->active) {
    const bool lower = other->question().priority < job.question().priority;
    if (other->phase != Job::Phase::writing || !(other->stalled() || lower)) continue;
    free += other->room;
    last = other;
  }
  return free >= wanted ? last : nullptr;
}

// Computes the tokens that were chosen last, and chooses the next ones.
void Scheduler::step(std::span<const JobPointer> batch) {
  const Clock::time_point begun = Clock::now();
  std::vector<SequenceId> sequences;
  std::vector<std::int64_t> tokens;
  std::vector<std::size_t> counts;
  for (const JobPointer& job : batch) {
    for (const Job::Writing& one : job->writing) {
      const std::span<const std::int64_t> run = job->drafts[one.draft]->run();
      sequences.push_back(one.sequence);
      tokens.insert(tokens.end(), run.begin(), run.end());
      counts.push_back(run.size());
    }
  }
  std::vector<float> logits;
  if (!sequences.empty()) {
    try {
      logits = engine_->decode(sequences, tokens, counts);
    } catch (...) {
      const std::exception_ptr failure = std::current_exception();
      for (const JobPointer& job : batch) {
        if (!job->writing.empty()) fail(job, failure);
      }
      return;
    }
  }
  const std::size_t vocab = sequences.empty() ? 0 : logits.size() / sequences.size();
  std::span<const float> rows = logits;
  for (const JobPointer& job : batch) {
    const std::span<const float> own = rows.first(job->writing.size() * vocab);
    rows = rows.subspan(own.size());
    try {
      go_on(job, own, begun);
    } catch (...) {
      fail(job, std::current_exception());
    }
  }
}

// Chooses the next tokens of a job's answers from their logits [answers that are being written, vocab].
void Scheduler::go_on(const JobPointer& job, std::span<const float> logits, Clock::time_point begun) {
  const std::size_t vocab = job->writing.empty() ? 0 : logits.size() / job->writing.size();
  for (const Job::Writing& one : job->writing) {
    choose(*job, one.draft, logits.first(vocab), begun);
    logits = logits.subspan(vocab);
  }
  drop_ended(*job);
  const bool all_begun = begin_answers(*job, begun);
  if (!job->writing.empty()) return;
  if (all_begun) {
    finish(job);
  } else {
    put_aside(job);  // the next answer has the prompt computed anew
  }
}

void Scheduler::choose(Job& job, std::size_t draft, std::span<const float> logits, Clock::time_point begun) {
  Draft& chosen = *job.drafts[draft];
  chosen.choose(logits, begun);
  if (job.question().streamed && !chosen.ended() && !job.request->cancelled())
    job.request->push(job.new_piece());
}

// Begins as many answers as are written at once. False if there are answers left that have to wait for the
// prompt to be computed again.
bool Scheduler::begin_answers(Job& job, Clock::time_point begun) {
  const auto has_place = [&]() -> bool {
    return job.forks == 0 ? job.writing.empty() && job.prompt != no_sequence : job.writing.size() < job.forks;
  };
  while (job.next < job.drafts.size() && has_place()) {
    const SequenceId sequence = job.forks == 0 ? job.prompt : engine_->fork(job.prompt, job.ids().size());
    job.writing.push_back({sequence, job.next++});
    choose(job, job.writing.back().draft, job.logits, begun);
    drop_ended(job);
  }
  const bool all_begun = job.next == job.drafts.size();
  if (all_begun && job.forks > 0) drop(std::exchange(job.prompt, no_sequence));
  return all_begun;
}

void Scheduler::drop_ended(Job& job) {
  std::erase_if(job.writing, [&](const Job::Writing& one) {
    if (!job.drafts[one.draft]->ended()) return false;
    if (job.prompt == one.sequence) job.prompt = no_sequence;
    // Where its place is given to the next answer, it goes.
    if (job.forks == 0 || job.next == job.drafts.size()) {
      keep_over(job, one.sequence, job.drafts[one.draft].get());
    } else {
      drop(one.sequence);
    }
    return true;
  });
}

// Keeps the sequence of an answer that has ended until the job leaves, or of the prompt alone.
void Scheduler::keep_over(Job& job, SequenceId sequence, const Draft* draft) {
  drop(std::exchange(job.over, no_sequence));
  if (options_.prefix_cache_tokens == 0) {
    drop(sequence);
    return;
  }
  job.over = sequence;
  job.over_content = job.content;
  job.over_content.frequencies = {{job.ids().size(), frequencies_of(job)}};
  if (draft == nullptr) return;
  for (const std::int64_t token : draft->computed())
    job.over_content.append(token, rope_.frequencies_of(job.over_content.ids.size() + 1));
}

}  // namespace internvl
