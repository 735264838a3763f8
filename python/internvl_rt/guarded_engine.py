"""An engine that can be closed while other threads use it, and that a forked process cannot use."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from internvl_rt.engines.engine import EncodedTiles, Engine, Float32Array, Progress
from internvl_rt.errors import DeviceError, InternVLError

CLOSE_POLL_S = 0.001
"""How often ``close`` looks whether the calls that are running have ended."""

_left_behind: list[Engine] = []
"""Engines of the process that this one was forked from, kept so that nothing ends them here."""


class GuardedEngine:
    """Passes every call on to an engine, and closes it only when no call is running.

    Engines free memory that a call in another thread may be reading; here ``close`` waits for the calls
    that are running and refuses those that come later. Long calls end where they next ask whether to go on,
    so the wait is short.
    """

    def __init__(self, engine: Engine) -> None:
        self.name = engine.name
        self._engine = engine
        self._running: set[object] = set()
        self._closed = False
        self._closing = threading.Lock()
        self._process = os.getpid()

    @property
    def cache_tokens(self) -> int:
        """Tokens that the KV cache holds, all sequences together."""
        return self._engine.cache_tokens

    @property
    def free_tokens(self) -> int:
        """See ``Engine.free_tokens``."""
        with self._call():
            return self._engine.free_tokens

    def room(self, prompt: int, new: int, forks: int) -> int:
        """See ``Engine.room``."""
        return self._engine.room(prompt, new, forks)

    def check_open(self) -> None:
        """Raises ClosedError where the engine was closed, DeviceError in a process that was forked."""
        with self._call():
            return

    def encode_tiles(self, pixel_values: Float32Array, progress: Progress | None = None) -> EncodedTiles:
        """See ``Engine.encode_tiles``."""
        with self._call():
            return self._engine.encode_tiles(pixel_values, self._unless_closed(progress))

    def new_sequence(self) -> int:
        """See ``Engine.new_sequence``."""
        with self._call():
            return self._engine.new_sequence()

    def fork(self, sequence: int) -> int:
        """See ``Engine.fork``."""
        with self._call():
            return self._engine.fork(sequence)

    def drop(self, sequence: int) -> None:
        """Forgets a sequence; nothing to do where the engine was closed meanwhile."""
        try:
            with self._call():
                self._engine.drop(sequence)
        except ClosedError:
            return

    def length(self, sequence: int) -> int:
        """See ``Engine.length``."""
        with self._call():
            return self._engine.length(sequence)

    def prefill(
        self,
        sequence: int,
        embeddings: Float32Array,
        all_logits: bool = False,
        progress: Progress | None = None,
    ) -> Float32Array:
        """See ``Engine.prefill``."""
        with self._call():
            return self._engine.prefill(sequence, embeddings, all_logits, self._unless_closed(progress))

    def decode(
        self, sequences: Sequence[int], tokens: Sequence[int], counts: Sequence[int] | None = None
    ) -> Float32Array:
        """See ``Engine.decode``."""
        with self._call():
            return self._engine.decode(sequences, tokens, counts)

    def embed(self, token_ids: npt.NDArray[np.int64], features: Float32Array | None) -> Float32Array:
        """See ``Engine.embed``."""
        with self._call():
            return self._engine.embed(token_ids, features)

    def close(self) -> None:
        """Waits for the calls that are running, then frees the engine's memory.

        In a forked process nothing is freed: an engine's end may wait for threads that stayed behind.
        """
        self._closed = True
        if os.getpid() != self._process:
            _left_behind.append(self._engine)
            return
        while self._running:
            time.sleep(CLOSE_POLL_S)
        with self._closing:
            self._engine.close()

    def _unless_closed(self, progress: Progress | None) -> Progress:
        """Progress that ends its call when the engine is being closed."""

        def step(done: int) -> None:
            if self._closed:
                raise _closed()
            if progress is not None:
                progress(done)

        return step

    @contextmanager
    def _call(self) -> Iterator[None]:
        if os.getpid() != self._process:
            # Threads do not survive a fork: the call would wait for them for ever.
            raise DeviceError(
                "this model was loaded before the process forked, and an engine's threads stay behind. Load "
                "it in the new process, or start that with multiprocessing's 'spawn' method."
            )
        # An interrupt may come between any two calls here. So a call is counted by adding and discarding an
        # object of its own: were it a number, an interrupt could leave it too high, and close would wait for
        # ever.
        call = object()
        try:
            self._running.add(call)
            if self._closed:  # it was set before close looked at what is running, or close sees this call
                raise _closed()
            yield
        finally:
            self._running.discard(call)


class ClosedError(InternVLError):
    """A call to an engine that was closed."""


def _closed() -> ClosedError:
    return ClosedError("This model was closed. Load it again with internvl_rt.load(...).")
