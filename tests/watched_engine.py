"""An engine whose calls a test may watch, count, hold up and break.

The native engine is computed with in C++, where a test has no hand. Here it is an object of Python's, as
every other engine: the scheduler looks up each method when it calls it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import internvl_rt as ivl
from internvl_rt.engines.engine import Engine
from internvl_rt.model import loading

Around = Callable[..., Any]
"""Is called in place of an engine's method: with that method, which may be called or not, and the arguments
of the call, which the scheduler makes in threads of its own. What it returns or raises comes of the call."""


class WatchedEngine:
    """Passes everything on to another engine; satisfies ``internvl_rt.engines.engine.Engine``."""

    def __init__(self, engine: Engine, **functions: Around) -> None:
        """Calls functions around the methods of their names; see ``around``."""
        self.inner = engine
        self._around = functions

    @contextmanager
    def around(self, **functions: Around) -> Iterator[None]:
        """Calls functions around the methods of their names, until the context ends.

        ``engine.around(decode=failing)``, with ``failing(decode, sequences, tokens, counts=None)``.
        """
        before = self._around
        self._around = {**before, **functions}
        try:
            yield
        finally:
            self._around = before

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        function = self._around.get(name)
        return found if function is None else lambda *given, **named: function(found, *given, **named)


class Gate:
    """Around a method: holds its first call up until it is opened, and lets the others pass.

    In a ``with`` statement it is open at its end, so that a test that fails leaves nobody waiting.
    """

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()

    def __call__(self, call: Callable[..., Any], *given: Any, **named: Any) -> Any:
        if not self.reached.is_set():
            self.reached.set()
            assert self._open.wait(60), "nobody opened the gate"
        return call(*given, **named)

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *about: object) -> None:
        self.open()

    def wait_reached(self) -> None:
        """Waits until a call is held up."""
        assert self.reached.wait(60), "nothing came to the gate"

    def open(self) -> None:
        """Lets the call go on."""
        self._open.set()


class Calls:
    """Counts what an engine is asked for: ``with engine.around(**calls.counting)``."""

    def __init__(self) -> None:
        self.encoded: list[int] = []
        """Tiles of each call."""
        self.prefilled: list[int] = []
        """Tokens of each prompt."""
        self.batches: list[int] = []
        """Sequences of each step."""

    @property
    def counting(self) -> dict[str, Around]:
        """For ``WatchedEngine.around``."""

        def encode_tiles(call: Around, pixel_values: Any, *given: Any, **named: Any) -> Any:
            self.encoded.append(len(pixel_values))
            return call(pixel_values, *given, **named)

        def prefill(call: Around, sequence: int, embeddings: Any, *given: Any, **named: Any) -> Any:
            self.prefilled.append(len(embeddings))
            return call(sequence, embeddings, *given, **named)

        def decode(call: Around, sequences: Any, *given: Any, **named: Any) -> Any:
            self.batches.append(len(sequences))
            return call(sequences, *given, **named)

        return {"encode_tiles": encode_tiles, "prefill": prefill, "decode": decode}


@contextmanager
def watching(**functions: Around) -> Iterator[list[WatchedEngine]]:
    """Models that are loaded in this context compute with engines that are watched, and listed here.

    The functions are called around the methods of their names.
    """
    start = loading.start_engine
    engines: list[WatchedEngine] = []

    def watched(*given: Any, **named: Any) -> WatchedEngine:
        engines.append(WatchedEngine(start(*given, **named), **functions))
        return engines[-1]

    with mock.patch.object(loading, "start_engine", watched):
        yield engines


def load_watched(bundle: Path, **options: Any) -> tuple[ivl.Model, WatchedEngine]:
    """Loads a model as ``internvl_rt.load`` does, and the engine that it computes with, watched.

    Nothing of a call stays in the cache where ``prefix_cache_tokens`` does not say otherwise.
    """
    with watching() as engines:
        model = ivl.load(bundle, **{"prefix_cache_tokens": 0, **options})
    return model, engines[0]
