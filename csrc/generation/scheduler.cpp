#include "generation/scheduler.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "generation/forked_process.h"
#include "generation/milliseconds.h"
#include "generation/scheduler_state.h"
#include "runtime/error.h"

namespace internvl {
namespace {

using Clock = std::chrono::steady_clock;

std::string seconds(Clock::duration duration) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", std::chrono::duration<double>(duration).count());
  return text;
}

}  // namespace

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
      rope_(manifest.llm.decoder.rope),
      options_(options),
      cache_(engine_->cache()),
      state_(std::make_shared<State>(
          PrefixCache(cache_, options.prefix_cache_tokens, manifest.prompt.image_context_id))) {
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
  if (state_->closed) std::rethrow_exception(closed_error());
}

std::size_t Scheduler::waiting() const {
  check_process();
  const std::lock_guard lock(state_->mutex);
  return state_->waiting.size();
}

Picture Scheduler::cut(Picture picture, std::string_view salt) {
  return cut_picture(std::move(picture), picture_facts_, *team_, tile_cache_, salt);
}

std::shared_ptr<Request> Scheduler::submit(Question question) {
  check_process();
  {
    const std::lock_guard lock(state_->mutex);
    check_takes_more();
  }
  auto job = std::make_shared<Job>();
  for (Picture& picture : question.pictures) {
    if (picture.pixels.pixels == nullptr) continue;
    const Clock::time_point begun = Clock::now();
    picture = cut(std::move(picture), question.cache_salt);
    question.timings.tile += milliseconds_since(begun);
  }
  job->content.ids = question.ids;
  job->content.salt = question.cache_salt;
  job->timings = question.timings;
  job->usage = question.usage;
  job->count_tokens(image_context_id_);
  add_features(*job, question.features);
  job->content_known = !picture_facts_.flash || question.pictures.empty();
  if (job->content_known) {
    for (const Picture& picture : question.pictures) {
      if (picture.encoded()) {
        add_features(*job, picture.features);
      } else {
        for (const TileKey& key : picture.cut->keys)
          job->content.images.push_back({key, picture_facts_.tokens_per_tile});
      }
    }
  }
  std::size_t& most = job->most_new_tokens;
  const std::size_t left = options_.context_tokens - std::min(options_.context_tokens, job->ids().size());
  for (const AnswerRequest& answer : question.answers) {
    job->drafts.push_back(std::make_unique<Draft>(tokenizer_, answer, stop_ids_, left, question.asked));
    most = std::max(most, std::min(answer.settings.max_new_tokens, left));
  }
  std::size_t alone = 0;
  if (!job->ids().empty()) {
    alone = cache_.needed(job->ids().size(), most, 0);
    // As many at once as the whole cache holds, each to its full length: so a request that is alone ends.
    while (job->drafts.size() > 1 && job->forks < job->drafts.size() &&
           cache_.needed(job->ids().size(), most, job->forks + 1) <= cache_.tokens)
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

// The caller holds the mutex.
void Scheduler::check_takes_more() const {
  if (state_->closed) std::rethrow_exception(closed_error());
  if (state_->waiting.size() < options_.max_waiting) return;
  throw BusyError(std::to_string(state_->waiting.size()) +
                  " requests wait for this model already, the most that it was loaded for (max_waiting). Ask "
                  "again later.");
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
  check_takes_more();
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
  std::vector<PrefixCache::Kept> kept;
  std::shared_ptr<Engine> engine;  // another thread that closes may let go of it meanwhile
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
    engine = engine_;
    for (auto* jobs : {&state.waiting, &state.active, &state.parked}) {
      ended.insert(ended.end(), jobs->begin(), jobs->end());
      jobs->clear();
    }
    kept = state.kept.take_all();
  }
  for (const JobPointer& job : ended) {
    drop_sequences(*job, *engine);
    drop(std::exchange(job->over, no_sequence), *engine);
    job->request->fail(closed_error());
  }
  drop_kept(kept, *engine);
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
  if (job.ids().empty()) return 0;
  const std::size_t most = std::min(job.most_new_tokens, job.most_tokens() + added);
  return cache_.needed(job.ids().size(), most, job.forks) - job.prefix.size() * cache_.block_tokens;
}

// Tokens of the cache that nobody has taken. The caller holds the mutex.
std::size_t Scheduler::free_tokens() const {
  return cache_.tokens - std::min(cache_.tokens, state_->taken());
}

std::size_t Scheduler::frequencies_of(const Job& job) const { return rope_.frequencies_of(job.ids().size()); }

// ---- The end of a request, on either thread.

void Scheduler::drop(SequenceId sequence, Engine& engine) {
  if (sequence == no_sequence) return;
  try {
    engine.drop(sequence);
  } catch (...) {  // NOLINT(bugprone-empty-catch)
    // An engine that cannot forget a sequence tells whoever asks it next.
  }
}

void Scheduler::drop_sequences(Job& job, Engine& engine) {
  for (Job::Writing& one : job.writing) {
    if (job.prompt != one.sequence) drop(one.sequence, engine);
    one.sequence = no_sequence;
  }
  drop(std::exchange(job.prompt, no_sequence), engine);
}

void Scheduler::drop_kept(std::span<const PrefixCache::Kept> kept, Engine& engine) {
  if (kept.empty()) return;
  for (const PrefixCache::Kept& one : kept) drop(one->sequence, engine);
  const std::lock_guard lock(state_->mutex);
  for (const PrefixCache::Kept& one : kept) PrefixCache::release(*one);
  state_->wake_both();
}

// Takes its room from a job, and keeps the sequence of an answer that has ended. Returns kept ones that have
// to go for it. The caller holds the mutex.
std::vector<PrefixCache::Kept> Scheduler::give_back_room(Job& job) {
  std::vector<PrefixCache::Kept> spare;
  if (job.match.kept) {  // that was never forked
    --job.match.kept->pins;
    if (job.uses_up) spare.push_back(job.match.kept);
    job.match = {};
  }
  job.room = 0;
  if (job.over != no_sequence) {
    auto others =
        state_->kept.keep(std::exchange(job.over, no_sequence), std::move(job.over_content), job.prefix);
    spare.insert(spare.end(), others.begin(), others.end());
  }
  job.prefix.clear();
  return spare;
}

void Scheduler::put_aside(const JobPointer& job) {
  drop_sequences(*job);
  job->logits.clear();
  State& state = *state_;
  std::vector<PrefixCache::Kept> spare;
  {
    const std::lock_guard lock(state.mutex);
    std::erase(state.active, job);
    spare = give_back_room(*job);
    const bool stalled = job->stalled();
    job->phase = stalled ? Job::Phase::parked : Job::Phase::waiting;
    State::insert(stalled ? state.parked : state.waiting, job);
    state.prompts.notify_one();
  }
  drop_kept(spare);
}

void Scheduler::leave(const JobPointer& job) {
  drop_sequences(*job);
  job->writing.clear();
  State& state = *state_;
  std::vector<PrefixCache::Kept> spare;
  {
    const std::lock_guard lock(state.mutex);
    for (auto* jobs : {&state.waiting, &state.active, &state.parked}) std::erase(*jobs, job);
    if (state.waiting.empty()) state.blocked = false;
    spare = give_back_room(*job);
    job->phase = Job::Phase::over;
    state.wake_both();
  }
  drop_kept(spare);
}

void Scheduler::finish(const JobPointer& job) {
  if (!job->writing.empty() && job->writing.back().sequence != no_sequence) {  // it was cancelled
    const Job::Writing last = job->writing.back();
    job->writing.pop_back();
    if (job->prompt == last.sequence) job->prompt = no_sequence;
    keep_over(*job, last.sequence, job->drafts[last.draft].get());
  } else if (job->over == no_sequence && job->prompt != no_sequence && !job->logits.empty()) {
    keep_over(*job, std::exchange(job->prompt, no_sequence), nullptr);
  }
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
  drop(std::exchange(job->over, no_sequence));
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
