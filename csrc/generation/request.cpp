#include "generation/request.h"

#include <algorithm>
#include <utility>

#include "generation/forked_process.h"

namespace internvl {

Request::Request(Question question) : question_(std::move(question)), cancelled_(question_.cancelled) {}

Request::~Request() {
  // NOLINTNEXTLINE(bugprone-unused-return-value)
  if (getpid() != process_) static_cast<void>(channel_.release());
}

void Request::check_process() const {
  if (getpid() != process_) throw_forked();
}

std::optional<Event> Request::next(std::chrono::milliseconds wait) {
  check_process();
  std::function<void()> wake;
  std::optional<Event> event;
  {
    std::unique_lock lock(channel_->mutex);
    std::deque<Event>& events = channel_->events;
    channel_->changed.wait_for(lock, wait, [&] { return !events.empty() || channel_->failure; });
    if (!events.empty()) {
      event = std::move(events.front());
      events.pop_front();
      if (const Piece* piece = std::get_if<Piece>(&*event)) {
        const bool behind = channel_->unread_tokens >= kMostUnreadTokens;
        channel_->unread_tokens -= piece->token_ids.size();
        if (behind && channel_->unread_tokens < kMostUnreadTokens) wake = channel_->wake;
      }
    } else if (channel_->failure) {
      std::rethrow_exception(channel_->failure);
    }
  }
  if (wake) wake();
  return event;
}

void Request::cancel() {
  cancelled_.store(true, std::memory_order_relaxed);
  if (getpid() != process_) return;
  std::function<void()> wake;
  {
    const std::lock_guard lock(channel_->mutex);
    wake = channel_->wake;
  }
  if (wake) wake();
}

bool Request::ended() const {
  check_process();
  const std::lock_guard lock(channel_->mutex);
  return channel_->ended;
}

bool Request::wait_ended(std::chrono::milliseconds wait) const {
  if (getpid() != process_) return true;
  std::unique_lock lock(channel_->mutex);
  return channel_->changed.wait_for(lock, wait, [&] { return channel_->ended; });
}

void Request::set_event_fd(int fd) {
  if (getpid() != process_) return;
  const std::lock_guard lock(channel_->mutex);
  channel_->event_fd = fd;
}

void Request::set_wake(std::function<void()> wake) {
  const std::lock_guard lock(channel_->mutex);
  channel_->wake = std::move(wake);
}

void Request::tell_tiles(std::size_t tiles) {
  if (question_.tells_tiles) put(TilesEncoded{tiles});
}

void Request::push(Piece piece) { put(std::move(piece)); }

std::size_t Request::unread_tokens() const {
  const std::lock_guard lock(channel_->mutex);
  return channel_->unread_tokens;
}

void Request::end(std::vector<Answer> answers, Piece rest) {
  answers_ = std::move(answers);
  put(Ended{std::move(rest)});
}

void Request::end(std::vector<EncodedPicture> pictures, const Timings& timings) {
  pictures_ = std::move(pictures);
  timings_ = timings;
  put(Ended{});
}

void Request::fail(std::exception_ptr failure) {
  const std::lock_guard lock(channel_->mutex);
  channel_->failure = std::move(failure);
  announce(*channel_, true);
}

void Request::put(Event event) {
  const std::lock_guard lock(channel_->mutex);
  if (const Piece* piece = std::get_if<Piece>(&event)) channel_->unread_tokens += piece->token_ids.size();
  const bool ends = std::holds_alternative<Ended>(event);
  channel_->events.push_back(std::move(event));
  announce(*channel_, ends);
}

void Request::announce(Channel& channel, bool ends) {
  if (ends) {
    channel.ended = true;
    channel.wake = nullptr;
  }
  channel.changed.notify_all();
  if (channel.event_fd < 0) return;
  const std::uint64_t one = 1;
  // A counter that is full has been written to, and that is all that its reader asks.
  static_cast<void>(::write(channel.event_fd, &one, sizeof one) == sizeof one);
}

}  // namespace internvl
