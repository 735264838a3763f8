#include "generation/scheduler.h"

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <thread>
#include <utility>

#include "generation/forked_process.h"
#include "generation/milliseconds.h"
#include "runtime/error.h"

namespace internvl {
namespace {

using Clock = std::chrono::steady_clock;

// Tokens of an answer that there is room for before it is begun, and that room is taken for at a time.
constexpr std::size_t tokens_ahead = 32;
// Tokens of an answer that are decoded again in one call: others come to their turn between two.
constexpr std::size_t replayed_at_once = 16;

// Between two tokens of an answer while somebody's prompt or picture is computed: the answers would take most
// of the time otherwise, and whoever waits for their prompts could not join them.
constexpr std::chrono::milliseconds between_tokens(50);

// Of a job that has none, such as one that was put aside.
constexpr SequenceId no_sequence = -1;

// Thrown by a call's progress where its request was cancelled.
class Cancelled : public std::exception {};

std::exception_ptr closed() {
  return std::make_exception_ptr(ClosedError("This model was closed. Load it again."));
}

std::string seconds(Clock::duration duration) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", std::chrono::duration<double>(duration).count());
  return text;
}

}  // namespace

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
  Clock::time_point arrived = Clock::now();
  std::size_t room = 0;  // tokens of the cache that it has
  bool begun = false;    // it had room before

  std::vector<std::int64_t> ids;  // the prompt without places that its tiles turned out not to need
  std::vector<float> features;    // [image tokens, hidden]
  bool encoded = false;
  Timings timings;
  Usage usage;
  std::size_t most_new_tokens = 0;  // of the longest answer that was asked for
  std::vector<std::unique_ptr<Draft>> drafts;
  std::size_t forks = 0;  // answers that are written to forks of the prompt at once; 0: to the prompt itself
  std::size_t next = 0;   // the first answer that was not begun
  SequenceId prompt = no_sequence;
  std::vector<float> logits;                     // after the prompt
  std::vector<Writing> writing;                  // answers that have begun and not ended
  std::size_t sent_tokens = 0;                   // of a streamed answer
  std::vector<EncodedPicture> encoded_pictures;  // where there are no answers to give

  const Question& question() const { return request->question(); }
  std::size_t most_tokens() const {  // of the answers that are being written
    std::size_t most = 0;
    for (const Writing& one : writing) most = std::max(most, drafts[one.draft]->tokens());
    return most;
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
    usage.prompt_tokens = ids.size();
    usage.image_tokens = static_cast<std::size_t>(std::count(ids.begin(), ids.end(), image_context_id));
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
  bool blocked = false;             // the first that waits found no room
  Clock::time_point blocked_since;
  std::thread prompt_thread;
  std::thread write_thread;

  std::size_t taken() const {
    std::size_t tokens = 0;
    for (const JobPointer& job : active) tokens += job->room;
    for (const JobPointer& job : held) tokens += job->room;
    return tokens;
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

Scheduler::Scheduler(std::shared_ptr<Engine> engine, std::shared_ptr<const Tokenizer> tokenizer,
                     const Manifest& manifest, std::shared_ptr<ThreadTeam> team,
                     const SchedulerOptions& options)
    : engine_(std::move(engine)),
      tokenizer_(std::move(tokenizer)),
      team_(std::move(team)),
      picture_facts_(manifest),
      tile_cache_(options.tile_cache_bytes, options.frame_tolerance),
      image_context_id_(manifest.prompt.image_context_id),
      stop_ids_(manifest.prompt.stop_ids),
      options_(options),
      cache_(engine_->cache()),
      state_(std::make_shared<State>()) {
  state_->prompt_thread = std::thread([this] { prompt_loop(); });
  state_->write_thread = std::thread([this] { write_loop(); });
}

Scheduler::~Scheduler() {
  if (getpid() != process_) {
    // NOLINTNEXTLINE(bugprone-unhandled-exception-at-new)
    static_cast<void>(new std::shared_ptr<State>(state_));
    return;
  }
  close();
}

void Scheduler::check_process() const {
  if (getpid() != process_) throw_forked();
}

void Scheduler::check_open() const {
  check_process();
  const std::lock_guard lock(state_->mutex);
  if (state_->closed) std::rethrow_exception(closed());
}

std::size_t Scheduler::waiting() const {
  check_process();
  const std::lock_guard lock(state_->mutex);
  return state_->waiting.size();
}

std::shared_ptr<Request> Scheduler::submit(Question question) {
  check_process();
  auto job = std::make_shared<Job>();
  job->ids = question.ids;
  job->timings = question.timings;
  job->usage = question.usage;
  job->count_tokens(image_context_id_);
  std::size_t& most = job->most_new_tokens;
  const std::size_t left = options_.context_tokens - std::min(options_.context_tokens, job->ids.size());
  for (const AnswerRequest& answer : question.answers) {
    job->drafts.push_back(std::make_unique<Draft>(tokenizer_, answer, stop_ids_, left, question.asked));
    most = std::max(most, std::min(answer.settings.max_new_tokens, left));
  }
  std::size_t alone = 0;
  if (!job->ids.empty()) {
    alone = cache_.needed(job->ids.size(), most, 0);
    // As many at once as the whole cache holds, each to its full length: so a request that is alone ends.
    while (job->drafts.size() > 1 && job->forks < job->drafts.size() &&
           cache_.needed(job->ids.size(), most, job->forks + 1) <= cache_.tokens)
      ++job->forks;
  }
  job->reserved_tokens = alone;
  job->request = std::make_shared<Request>(std::move(question));
  return enqueue(std::move(job));
}

std::shared_ptr<Request> Scheduler::reserve(std::size_t tokens) {
  check_process();
  auto job = std::make_shared<Job>();
  job->reservation = true;
  job->reserved_tokens = tokens;
  job->request = std::make_shared<Request>(Question{});
  return enqueue(std::move(job));
}

std::shared_ptr<Request> Scheduler::enqueue(JobPointer job) {
  const std::size_t tokens = job->reserved_tokens;
  if (tokens > cache_.tokens) {
    throw CacheFullError("this call needs room for " + std::to_string(tokens) +
                         " tokens, and the cache holds " + std::to_string(cache_.tokens) +
                         ". Load the model with cache_tokens=" + std::to_string(tokens) + " or more.");
  }
  std::shared_ptr<Request> request = job->request;
  State& state = *state_;
  const std::lock_guard lock(state.mutex);
  if (state.closed) std::rethrow_exception(closed());
  if (state.waiting.size() >= options_.max_waiting) {
    throw BusyError(std::to_string(state.waiting.size()) +
                    " requests wait for this model already, the most that it was loaded for (max_waiting). "
                    "Ask again later.");
  }
  // The request may outlive the scheduler.
  request->set_wake([shared = state_] {
    const std::lock_guard own(shared->mutex);
    shared->write_again = true;
    shared->writes.notify_one();
  });
  job->number = state.arrivals++;
  State::insert(state.waiting, std::move(job));
  state.wake_both();
  return request;
}

void Scheduler::release(const Request& reservation) {
  if (getpid() != process_) return;
  JobPointer gone;  // ends outside of the lock
  State& state = *state_;
  const std::lock_guard lock(state.mutex);
  for (auto* jobs : {&state.waiting, &state.held}) {
    const auto found = std::find_if(jobs->begin(), jobs->end(), [&](const JobPointer& job) {
      return job->request.get() == &reservation;
    });
    if (found == jobs->end()) continue;
    gone = std::move(*found);
    gone->phase = Job::Phase::over;
    jobs->erase(found);
    break;
  }
  state.wake_both();
  state.released.notify_all();
}

void Scheduler::end_requests() {
  if (getpid() != process_) return;
  State& state = *state_;
  std::vector<JobPointer> ended;
  {
    const std::lock_guard lock(state.mutex);
    state.closed = true;
    state.wake_both();
  }
  // An engine may close the model that it computes for; then whoever closes it next waits for its thread.
  const auto join = [](std::thread& thread) {
    if (thread.joinable() && thread.get_id() != std::this_thread::get_id()) thread.join();
  };
  {
    static std::mutex joining;  // two threads may close
    const std::lock_guard turn(joining);
    join(state.prompt_thread);
    join(state.write_thread);
  }
  {
    const std::lock_guard lock(state.mutex);
    for (auto* jobs : {&state.waiting, &state.active, &state.parked}) {
      ended.insert(ended.end(), jobs->begin(), jobs->end());
      jobs->clear();
    }
  }
  for (const JobPointer& job : ended) {
    drop_sequences(*job);
    job->request->fail(closed());
  }
}

void Scheduler::wait_unused(std::chrono::milliseconds most) const {
  if (getpid() != process_) return;
  std::unique_lock lock(state_->mutex);
  state_->released.wait_for(lock, most, [&] { return state_->held.empty(); });
}

void Scheduler::close() {
  if (getpid() != process_) return;
  end_requests();
  std::unique_lock lock(state_->mutex);
  state_->released.wait(lock, [&] { return state_->held.empty(); });
  engine_.reset();
  tile_cache_.clear();
}

// Room in the cache for what the job has by now, and so many more tokens of each answer.
std::size_t Scheduler::needed(const Job& job, std::size_t added) const {
  if (job.reservation) return job.reserved_tokens;
  if (job.ids.empty()) return 0;
  return cache_.needed(job.ids.size(), std::min(job.most_new_tokens, job.most_tokens() + added), job.forks);
}

// ---- The thread that takes requests in turn.

void Scheduler::prompt_loop() {
  State& state = *state_;
  while (true) {
    JobPointer job;
    {
      std::unique_lock lock(state.mutex);
      const auto next = [&] {
        const std::size_t free = cache_.tokens - state.taken();
        auto found = state.waiting.end();
        if (!state.waiting.empty()) {
          found = state.waiting.begin();
          if (needed(**found, tokens_ahead) > free) {
            if (!std::exchange(state.blocked, true)) {
              state.blocked_since = Clock::now();
              state.write_again = true;  // it may put somebody aside, and looks at the time
              state.writes.notify_one();
            }
            // What needs no room need not wait for it.
            found = std::find_if(state.waiting.begin(), state.waiting.end(),
                                 [&](const JobPointer& one) { return needed(*one, tokens_ahead) == 0; });
          } else {
            state.blocked = false;
          }
        } else {
          state.blocked = false;
        }
        return found;
      };
      auto found = state.waiting.end();
      state.prompts.wait(lock, [&] { return state.closed || (found = next()) != state.waiting.end(); });
      if (state.closed) return;
      job = std::move(*found);
      state.waiting.erase(found);
      job->room = needed(*job, tokens_ahead);
      job->begun = true;
      if (job->reservation) {
        job->phase = Job::Phase::held;
        State::insert(state.held, job);
      } else {
        job->phase = Job::Phase::prompt;
        State::insert(state.active, job);
        state.computing = true;
      }
    }
    if (job->reservation) {
      job->request->end({}, Piece{});
      continue;
    }
    compute_prompt(job);
    const std::lock_guard lock(state.mutex);
    state.computing = false;
    state.write_again = true;
    state.writes.notify_one();
  }
}

void Scheduler::go_on_unless_ended(const Job& job) const {
  if (job.request->cancelled()) throw Cancelled{};
  const std::lock_guard lock(state_->mutex);
  if (state_->closed) std::rethrow_exception(closed());
}

void Scheduler::compute_prompt(const JobPointer& job) {
  try {
    go_on_unless_ended(*job);
    if (!job->encoded) encode_pictures(*job);
    if (job->ids.empty()) {
      finish(job);
      return;
    }
    const auto watch = [&](std::size_t) { go_on_unless_ended(*job); };
    watch(0);
    const Clock::time_point begun = Clock::now();
    const std::span<const float> features =
        job->question().features.empty() ? std::span<const float>(job->features) : job->question().features;
    job->prompt = engine_->new_sequence();
    job->logits = engine_->prefill(job->prompt, job->ids, features, watch);
    if (job->timings.prefill == 0.0) job->timings.prefill = milliseconds_since(begun);
    replay(*job);
  } catch (const Cancelled&) {
    finish(job);
    return;
  } catch (...) {
    fail(job, std::current_exception());
    return;
  }
  const std::lock_guard lock(state_->mutex);
  job->phase = Job::Phase::writing;
  state_->write_again = true;
  state_->writes.notify_one();
}

void Scheduler::encode_pictures(Job& job) {
  const std::vector<Picture>& pictures = job.question().pictures;
  std::size_t told = 0;
  PictureEncoder encoder(*engine_, picture_facts_, *team_, tile_cache_, [&](std::size_t tiles) {
    go_on_unless_ended(job);
    if (tiles > told) job.request->tell_tiles(told = tiles);
  });
  std::vector<std::size_t> tile_tokens;
  const auto keep_timings = [&] {
    job.timings.tile = encoder.timings().tile;
    job.timings.vit = encoder.timings().vit;
    job.timings.projector = encoder.timings().projector;
  };
  std::size_t tiles = 0;
  if (std::any_of(pictures.begin(), pictures.end(), [](const Picture& one) { return !one.encoded(); }))
    job.request->tell_tiles(0);
  try {
    for (const Picture& picture : pictures) {
      if (picture.encoded()) {
        if (job.ids.empty()) continue;
        job.features.insert(job.features.end(), picture.features.begin(), picture.features.end());
        tile_tokens.insert(tile_tokens.end(), picture.tile_tokens.begin(), picture.tile_tokens.end());
        continue;
      }
      EncodedPicture made = encoder.encode(picture);
      tiles += made.tiles();
      job.usage.cached_tiles += made.cached_tiles;
      if (job.ids.empty()) {
        job.encoded_pictures.push_back(std::move(made));
        continue;
      }
      const std::size_t size = picture_facts_.tokens_per_tile * picture_facts_.hidden;
      for (std::size_t i = 0; i < made.tiles(); ++i) {
        const auto tile =
            std::span(made.features).subspan(i * size, made.tile_tokens[i] * picture_facts_.hidden);
        job.features.insert(job.features.end(), tile.begin(), tile.end());
      }
      tile_tokens.insert(tile_tokens.end(), made.tile_tokens.begin(), made.tile_tokens.end());
    }
  } catch (...) {
    keep_timings();
    throw;
  }
  keep_timings();
  if (tiles > 0) job.request->tell_tiles(tiles);
  job.encoded = true;
  remove_spare_places(job.ids, image_context_id_, picture_facts_.tokens_per_tile, tile_tokens);
  job.count_tokens(image_context_id_);
}

// Gives the answers of a job that was put aside their sequences again.
void Scheduler::replay(Job& job) {
  for (Job::Writing& one : job.writing) {
    one.sequence = job.forks == 0 ? job.prompt : engine_->fork(job.prompt);
    std::span<const std::int64_t> tokens = job.drafts[one.draft]->computed();
    while (!tokens.empty()) {
      go_on_unless_ended(job);
      const std::size_t count = std::min(tokens.size(), replayed_at_once);
      static_cast<void>(engine_->decode({&one.sequence, 1}, tokens.first(count), {&count, 1}));
      tokens = tokens.subspan(count);
    }
  }
}

// ---- The thread that writes answers.

void Scheduler::write_loop() {
  State& state = *state_;
  Clock::time_point last_step;
  while (true) {
    if (settle()) continue;
    std::vector<JobPointer> batch;
    JobPointer aside;
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
        aside = who_gives_way(*job);
        if (aside) break;
      }
      if (!aside && batch.empty()) {
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
    if (aside) {
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
  const std::size_t left = cache_.tokens - (state_->taken() - job.room);
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
  std::size_t free = cache_.tokens - state_->taken();
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
    const SequenceId sequence = job.forks == 0 ? job.prompt : engine_->fork(job.prompt);
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
    drop(one.sequence);
    return true;
  });
}

// ---- Both.

void Scheduler::drop(SequenceId sequence) {
  if (sequence == no_sequence) return;
  try {
    engine_->drop(sequence);
  } catch (...) {  // NOLINT(bugprone-empty-catch)
    // An engine that cannot forget a sequence tells whoever asks it next.
  }
}

void Scheduler::drop_sequences(Job& job) {
  for (Job::Writing& one : job.writing) {
    if (job.prompt != one.sequence) drop(one.sequence);
    one.sequence = no_sequence;
  }
  drop(std::exchange(job.prompt, no_sequence));
}

void Scheduler::put_aside(const JobPointer& job) {
  drop_sequences(*job);
  job->logits.clear();
  State& state = *state_;
  const std::lock_guard lock(state.mutex);
  std::erase(state.active, job);
  job->room = 0;
  const bool stalled = job->stalled();
  job->phase = stalled ? Job::Phase::parked : Job::Phase::waiting;
  State::insert(stalled ? state.parked : state.waiting, job);
  state.prompts.notify_one();
}

void Scheduler::leave(const JobPointer& job) {
  drop_sequences(*job);
  job->writing.clear();
  State& state = *state_;
  const std::lock_guard lock(state.mutex);
  for (auto* jobs : {&state.waiting, &state.active, &state.parked}) std::erase(*jobs, job);
  if (state.waiting.empty()) state.blocked = false;
  job->room = 0;
  job->phase = Job::Phase::over;
  state.wake_both();
}

void Scheduler::finish(const JobPointer& job) {
  leave(job);
  if (job->question().answers.empty()) {
    job->request->end(std::move(job->encoded_pictures), job->timings);
    return;
  }
  std::vector<Answer> answers;
  for (const std::unique_ptr<Draft>& draft : job->drafts)
    answers.push_back(draft->finish(job->timings, job->usage));
  job->request->end(std::move(answers), job->question().streamed ? job->new_piece() : Piece{});
}

void Scheduler::fail(const JobPointer& job, const std::exception_ptr& failure) {
  leave(job);
  job->request->fail(failure);
}

// The caller holds the mutex.
std::string Scheduler::waited_in_vain(const Job& job) const {
  const Clock::time_point now = Clock::now();
  std::vector<JobPointer> holders = state_->active;
  holders.insert(holders.end(), state_->held.begin(), state_->held.end());
  std::size_t tokens = 0;
  Clock::time_point oldest = now;
  for (const JobPointer& holder : holders) {
    tokens += holder->room;
    oldest = std::min(oldest, holder->arrived);
  }
  const std::string since = seconds(now - oldest) + " s";
  return "this call waited " + seconds(now - job.arrived) + " s for room for " +
         std::to_string(needed(job, tokens_ahead)) + " of the cache's " + std::to_string(cache_.tokens) +
         " tokens, and " +
         (holders.size() == 1 ? "another call has held " + std::to_string(tokens) + " for " + since
                              : std::to_string(holders.size()) + " other calls hold " +
                                    std::to_string(tokens) + ", the oldest for " + since) +
         ". A larger cache_tokens or max_wait_s is given when the model is loaded.";
}

}  // namespace internvl
