// Of the scheduler, the thread that takes requests in turn: room, pictures and prompts.
#include <algorithm>
#include <chrono>
#include <mutex>
#include <utility>

#include "generation/milliseconds.h"
#include "generation/scheduler_state.h"
#include "runtime/error.h"
#include "runtime/sha256.h"

namespace internvl {
namespace {

using Clock = std::chrono::steady_clock;

// Tokens of an answer that are decoded again in one call: others come to their turn between two.
constexpr std::size_t replayed_at_once = 16;

// Thrown by a call's progress where its request was cancelled.
class Cancelled : public std::exception {};

}  // namespace

// Who comes next, with room for its prompt and the first tokens of its answers; or, where that is to be made,
// the kept sequence that has to go before. Null where nobody can begin. The caller holds the mutex.
Scheduler::Admission Scheduler::admit() {
  State& state = *state_;
  if (state.waiting.empty()) {
    state.blocked = false;
    return {};
  }
  JobPointer job = state.waiting.front();
  PrefixCache::Match match;
  if (job->content_known) match = state.kept.find(job->content, frequencies_of(*job));
  BlockShares shared;
  bool takes_over = false;
  if (match.kept) {
    shared = state.kept.shared_blocks(*match.kept, match.tokens);
    takes_over = !cache_.forks_share && match.tokens == match.kept->content.ids.size();
  }
  const std::size_t wanted = needed(*job, tokens_ahead) - shared.size() * cache_.block_tokens;
  std::size_t free = free_tokens();
  if (takes_over) free += match.kept->blocks.size() * cache_.block_tokens;
  bool consumes = false;
  if (wanted > free) {
    if (wanted > free_tokens() + state.reclaimable(shared)) {
      if (!std::exchange(state.blocked, true)) {
        state.blocked_since = Clock::now();
        state.write_again = true;  // it may put somebody aside, and looks at the time
        state.writes.notify_one();
      }
      // What needs no room need not wait for it.
      const auto found = std::find_if(state.waiting.begin(), state.waiting.end(),
                                      [&](const JobPointer& one) { return needed(*one, tokens_ahead) == 0; });
      if (found == state.waiting.end()) return {};
      job = *found;
      match = {};
      shared.clear();
      takes_over = false;
    } else if (PrefixCache::Kept oldest = state.kept.take_oldest(match.kept.get())) {
      return {nullptr, std::move(oldest)};
    } else if (match.kept && !cache_.forks_share) {
      state.kept.take_out(match.kept);
      return {nullptr, match.kept};
    } else {
      // What the match has beyond the prefix has to go too.
      consumes = match.kept != nullptr;
      const std::size_t own =
          consumes ? PrefixCache::own_tokens(*match.kept, shared.size(), cache_.block_tokens) : 0;
      // Else the other thread is dropping what was taken out, and will tell.
      if (wanted > free + own) return {};
    }
  }
  if (job == state.waiting.front()) state.blocked = false;
  std::erase(state.waiting, job);
  job->begun = true;
  if (job->reservation) {
    job->room = needed(*job, tokens_ahead);
    job->phase = Job::Phase::held;
    State::insert(state.held, job);
    return {job, nullptr};
  }
  use_prefix(*job, match, std::move(shared), takes_over || consumes);
  job->phase = Job::Phase::prompt;
  State::insert(state.active, job);
  state.computing = true;
  return {job, nullptr};
}

// Gives a job the beginning of its prompt that a kept sequence has, which is used up or stays. The caller
// holds the mutex.
void Scheduler::use_prefix(Job& job, const PrefixCache::Match& match, BlockShares shared, bool used_up) {
  job.prefix = std::move(shared);
  job.match = match;
  job.uses_up = used_up;
  job.room = needed(job, tokens_ahead);
  if (!match.kept) return;
  state_->kept.touch(match.kept);
  ++match.kept->pins;
  if (used_up) state_->kept.take_out(match.kept);
}

void Scheduler::prompt_loop() {
  State& state = *state_;
  while (true) {
    Admission next;
    {
      std::unique_lock lock(state.mutex);
      state.prompts.wait(lock, [&] {
        if (state.closed) return true;
        next = admit();
        return next.job != nullptr || next.evicted != nullptr;
      });
      if (state.closed) return;
    }
    if (next.evicted) {
      drop_kept({&next.evicted, 1});
      continue;
    }
    const JobPointer& job = next.job;
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
  if (state_->closed) std::rethrow_exception(closed_error());
}

void Scheduler::compute_prompt(const JobPointer& job) {
  try {
    go_on_unless_ended(*job);
    // With a router, what the pictures become in the prompt is known once they are encoded.
    if (job->content_known) begin_sequence(*job);
    if (!job->encoded || job->computed_image_tokens(image_context_id_) < job->first_feature)
      encode_pictures(*job);
    if (job->ids().empty()) {
      finish(job);
      return;
    }
    const auto watch = [&](std::size_t) { go_on_unless_ended(*job); };
    watch(0);
    if (job->prompt == no_sequence) begin_sequence(*job);
    const Clock::time_point begun = Clock::now();
    const std::span<const float> given = job->question().features;
    const std::span<const float> features = given.empty() ? std::span<const float>(job->features) : given;
    const std::size_t first = given.empty() ? job->first_feature : 0;
    const std::size_t skipped = job->computed_image_tokens(image_context_id_) - first;
    job->logits = engine_->prefill(job->prompt, std::span(job->ids()).subspan(job->computed),
                                   features.subspan(skipped * picture_facts_.hidden), watch);
    if (job->timings.prefill == 0.0) {
      job->timings.prefill = milliseconds_since(begun);
      job->usage.reused_tokens = job->computed;
    }
    replay(*job);
  } catch (const Cancelled&) {
    // What was computed halfway is of no use to anybody.
    drop_sequences(*job);
    job->writing.clear();
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

// A sequence for the prompt: it has what a kept one has computed of it.
void Scheduler::begin_sequence(Job& job) {
  if (!job.match.kept) {
    job.computed = 0;
    job.prompt = engine_->new_sequence();
    return;
  }
  const PrefixCache::Match match = std::exchange(job.match, {});
  const SequenceId origin = match.kept->sequence;
  const bool whole = job.uses_up && match.tokens == match.kept->content.ids.size();
  const auto unpin = [&] {
    const std::lock_guard lock(state_->mutex);
    --match.kept->pins;
    if (!job.uses_up) return;
    PrefixCache::release(*match.kept);
    state_->wake_both();
  };
  try {
    job.prompt = whole ? origin : engine_->fork(origin, match.tokens);
  } catch (...) {
    if (job.uses_up) drop(origin);
    unpin();
    throw;
  }
  if (job.uses_up && !whole) drop(origin);
  unpin();
  job.computed = match.tokens;
}

// Looks for a kept sequence once it is known what the prompt's pictures are.
void Scheduler::find_prefix(Job& job) {
  const std::lock_guard lock(state_->mutex);
  job.content_known = true;
  const PrefixCache::Match match = state_->kept.find(job.content, frequencies_of(job));
  BlockShares shared;
  if (match.kept) shared = state_->kept.shared_blocks(*match.kept, match.tokens);
  use_prefix(job, match, std::move(shared), false);
}

// The features of a prompt's pictures behind what its sequence has already, or those of pictures alone.
void Scheduler::encode_pictures(Job& job) {
  const std::vector<Picture>& pictures = job.question().pictures;
  std::size_t told = 0;
  PictureEncoder encoder(*engine_, picture_facts_, tile_cache_, job.content.salt, [&](std::size_t tiles) {
    go_on_unless_ended(job);
    if (tiles > told) job.request->tell_tiles(told = tiles);
  });
  const auto keep_timings = [&] {
    if (job.encoded) return;
    job.timings.vit = encoder.timings().vit;
    job.timings.projector = encoder.timings().projector;
  };
  std::size_t reused = job.computed_image_tokens(image_context_id_);
  job.first_feature = reused;
  job.features.clear();
  const std::size_t hidden = picture_facts_.hidden;
  std::vector<std::size_t> tile_tokens;
  std::size_t tiles = 0;
  if (std::any_of(pictures.begin(), pictures.end(), [](const Picture& one) { return !one.encoded(); }))
    job.request->tell_tiles(0);
  try {
    for (const Picture& picture : pictures) {
      if (picture.encoded()) {
        if (job.ids().empty()) continue;
        const std::size_t known = std::min(reused * hidden, picture.features.size());
        reused -= known / hidden;
        const auto rest = picture.features.subspan(known);
        job.features.insert(job.features.end(), rest.begin(), rest.end());
        tile_tokens.insert(tile_tokens.end(), picture.tile_tokens.begin(), picture.tile_tokens.end());
        if (!job.content_known) add_features(job, picture.features);
        continue;
      }
      const std::size_t known = std::min(reused / picture_facts_.tokens_per_tile, picture.cut->tiles());
      reused -= known * picture_facts_.tokens_per_tile;
      EncodedPicture made = encoder.encode(*picture.cut, known);
      tiles += made.tiles();
      if (!job.encoded) job.usage.cached_tiles += made.cached_tiles;
      if (job.ids().empty()) {
        job.encoded_pictures.push_back(std::move(made));
        continue;
      }
      const std::size_t size = picture_facts_.tokens_per_tile * hidden;
      for (std::size_t i = known; i < made.tiles(); ++i) {
        const auto tile = std::span(made.features).subspan(i * size, made.tile_tokens[i] * hidden);
        job.features.insert(job.features.end(), tile.begin(), tile.end());
      }
      tile_tokens.insert(tile_tokens.end(), made.tile_tokens.begin(), made.tile_tokens.end());
      if (job.content_known) continue;
      for (std::size_t i = 0; i < made.tiles(); ++i)
        job.content.images.push_back({made.keys[i], made.tile_tokens[i]});
    }
  } catch (...) {
    keep_timings();
    throw;
  }
  keep_timings();
  if (tiles > 0) job.request->tell_tiles(tiles);
  job.encoded = true;
  if (job.content_known) return;
  remove_spare_places(job.content.ids, image_context_id_, picture_facts_.tokens_per_tile, tile_tokens);
  job.count_tokens(image_context_id_);
  if (!job.ids().empty()) find_prefix(job);
}

// Features that came with the question are known by what they are.
void Scheduler::add_features(Job& job, std::span<const float> features) const {
  if (features.empty() || options_.prefix_cache_tokens == 0) return;
  Sha256 hash;
  hash.update(std::as_bytes(features));
  job.content.images.push_back({"features " + hash.finish(), features.size() / picture_facts_.hidden});
}

// Gives the answers of a job that was put aside their sequences again.
void Scheduler::replay(Job& job) {
  for (Job::Writing& one : job.writing) {
    one.sequence = job.forks == 0 ? job.prompt : engine_->fork(job.prompt, job.ids().size());
    std::span<const std::int64_t> tokens = job.drafts[one.draft]->computed();
    while (!tokens.empty()) {
      go_on_unless_ended(job);
      const std::size_t count = std::min(tokens.size(), replayed_at_once);
      static_cast<void>(engine_->decode({&one.sequence, 1}, tokens.first(count), {&count, 1}));
      tokens = tokens.subspan(count);
    }
  }
}

}  // namespace internvl
