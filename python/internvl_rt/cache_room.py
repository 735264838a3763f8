"""Room in the KV cache: reserved before anything is computed for a call, in the order in which calls came."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import perf_counter

from internvl_rt.engines.turns import WATCH_S
from internvl_rt.errors import CacheFullError


class _Share:
    """What one call has of the cache, or waits for. Calls are told apart by identity."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.begun = perf_counter()
        self.changed = threading.Event()


class CacheRoom:
    """Shares out the tokens of a cache.

    A call that has its room never fails for want of it. One that finds none waits until those before it have
    theirs and it has its own, however long it is: nobody overtakes.

    An interrupt may come between any two instructions. So nothing is counted: what is taken is the sum of the
    shares that are there, and only the first in the queue may take.
    """

    def __init__(self, tokens: int, max_wait_s: float) -> None:
        """A cache that is free.

        Args:
            tokens: that it holds.
            max_wait_s: the longest that a call waits, in seconds.
        """
        self._tokens = tokens
        self._max_wait_s = max_wait_s
        self._waiting: deque[_Share] = deque()
        self._taken: deque[_Share] = deque()

    @property
    def tokens(self) -> int:
        """Tokens that the cache holds."""
        return self._tokens

    @contextmanager
    def reserved(
        self, tokens: int, cancelled: threading.Event, check_open: Callable[[], None]
    ) -> Iterator[None]:
        """Holds room for so many tokens; has none where ``cancelled`` was set while it waited.

        Args:
            tokens: to be reserved.
            cancelled: ends the wait.
            check_open: called while it waits; what it raises ends the wait.

        Raises:
            CacheFullError: if the cache is smaller than that, or no room became free in ``max_wait_s``.
        """
        if tokens > self._tokens:
            raise CacheFullError(
                f"this call needs room for {tokens} tokens, and the cache holds {self._tokens}. Load the "
                f"model with cache_tokens={tokens} or more."
            )
        share = _Share(tokens)
        try:
            self._waiting.append(share)
            while not cancelled.is_set():
                check_open()
                if self._waiting[0] is share and self._free() >= tokens:
                    self._taken.append(share)
                    self._leave(self._waiting, share)
                    self._wake_next()
                    break
                left = self._max_wait_s - (perf_counter() - share.begun)
                if left <= 0:
                    raise CacheFullError(self._message(share))
                share.changed.wait(min(left, WATCH_S))
                share.changed.clear()
            yield
        finally:
            try:
                self._give_back(share)
            finally:
                self._give_back(share)  # the first may have been interrupted

    def _free(self) -> int:
        return self._tokens - sum(share.tokens for share in tuple(self._taken))

    def _wake_next(self) -> None:
        with suppress(IndexError):
            self._waiting[0].changed.set()

    def _give_back(self, share: _Share) -> None:
        self._leave(self._taken, share)
        self._leave(self._waiting, share)
        self._wake_next()

    @staticmethod
    def _leave(queue: deque[_Share], share: _Share) -> None:
        with suppress(ValueError):
            queue.remove(share)

    def _message(self, share: _Share) -> str:
        now = perf_counter()
        holders = list(self._taken)
        if len(holders) == 1:
            held = f"another call has held {holders[0].tokens} for {now - holders[0].begun:.1f} s"
        else:
            oldest = max((now - holder.begun for holder in holders), default=0.0)
            held = (
                f"{len(holders)} other calls hold {sum(holder.tokens for holder in holders)}, the oldest for "
                f"{oldest:.1f} s"
            )
        return (
            f"this call waited {now - share.begun:.1f} s for room for {share.tokens} of the cache's "
            f"{self._tokens} tokens, and {held}. A stream keeps its room until it is read to its end or "
            "closed: close those that are not read on. A smaller max_new_tokens needs less room; a larger "
            "cache_tokens or max_wait_s is given when the model is loaded."
        )
