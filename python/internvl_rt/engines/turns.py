"""Turns at something that one call at a time can use."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

WATCH_S = 0.05
"""How often a call that runs or waits is asked whether to go on."""


class Turns:
    """A lock that is given to those who wait in the order in which they came, and whoever waits may give up.

    An interrupt may come between any two instructions. So a turn is an object in a queue, which is taken out
    wherever the interrupt comes.
    """

    def __init__(self) -> None:
        self._queue: deque[threading.Event] = deque()

    @contextmanager
    def turn(self, step: Callable[[], None] | None = None) -> Iterator[None]:
        """Holds the lock; ``step`` is asked while this waits for it, and what it raises ends the wait."""
        mine = threading.Event()
        try:
            self._queue.append(mine)
            while self._queue[0] is not mine:
                mine.wait(WATCH_S)
                if step is not None:
                    step()
            yield
        finally:
            try:
                self._leave(mine)
            finally:
                self._leave(mine)  # the first may have been interrupted

    def _leave(self, mine: threading.Event) -> None:
        with suppress(ValueError):
            self._queue.remove(mine)
        with suppress(IndexError):
            self._queue[0].set()
