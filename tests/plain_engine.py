"""An engine in Python that computes next to nothing and keeps what it was asked; models that compute with it.

What it says is up to its heirs. ``at`` holds a call until a test lets it go on.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

import internvl_rt as ivl
from bundle.tiny import tiny_manifest, tiny_tokenizer
from internvl_rt import _core
from internvl_rt._core import CacheRoom
from internvl_rt.bundle.manifest import Manifest
from internvl_rt.engines.engine import EncodedTiles, Float32Array, Progress
from internvl_rt.model.asking import PictureRules
from internvl_rt.prompts.tokenizer import PromptTokenizer

PATIENCE_S = 60.0
"""What takes longer than this never happens."""
CHUNK = 256
"""Tokens of a prompt between two questions whether to go on."""


def until(condition: Callable[[], object]) -> None:
    """Waits for what another thread brings about."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.001)


class Hold:
    """Where a call of the engine waits: the test knows that it has come there, and lets it go on."""

    def __init__(self) -> None:
        self._reached, self._released = threading.Event(), threading.Event()

    def stop_here(self) -> None:
        self._reached.set()
        assert self._released.wait(PATIENCE_S)

    def wait(self) -> None:
        """Waits until a call has come here."""
        assert self._reached.wait(PATIENCE_S)

    def release(self) -> None:
        self._released.set()


class PlainEngine:
    """Satisfies :class:`internvl_rt.engines.engine.Engine`."""

    name = "plain"
    hidden_size = 64

    def __init__(self, cache_tokens: int = 1 << 20, *, block_tokens: int = 1) -> None:
        self.cache = CacheRoom(cache_tokens, block_tokens=block_tokens)
        self.manifest = tiny_manifest()
        self.sequences: dict[int, list[int]] = {}
        self.prefills: list[list[int]] = []
        """The ids of every prompt."""
        self.features: list[Float32Array | None] = []
        """Those that were put into the places of every prompt."""
        self.runs: list[list[int]] = []
        """The counts of every call of ``decode``."""
        self.encoded: list[Float32Array] = []
        """The tiles of every call of ``encode_tiles``."""
        self.calls: list[str] = []
        """That have ended, in their order; of the tokens only the prompt's."""
        self._names = itertools.count(1)
        self._before: list[tuple[str, int, Callable[[], None]]] = []

    def logits(self, ids: Sequence[int]) -> Float32Array:
        """[vocab] behind all ids of a sequence."""
        raise NotImplementedError

    def before(self, call: str, number: int, action: Callable[[], None]) -> None:
        """Does something before the call of that kind and number: ``encode``, ``prefill`` or ``decode``."""
        self._before.append((call, number, action))

    @contextmanager
    def at(self, call: str, number: int) -> Iterator[Hold]:
        """Holds that call until the end of the ``with`` statement, or until it is released before."""
        hold = Hold()
        self.before(call, number, hold.stop_here)
        try:
            yield hold
        finally:
            hold.release()

    def _begin(self, call: str, number: int) -> None:
        for what, when, action in self._before:
            if (what, when) == (call, number):
                action()

    @property
    def free_tokens(self) -> int:
        return self.cache.tokens - sum(
            self.cache.needed(len(ids), 0, 0) for ids in list(self.sequences.values())
        )

    def encode_tiles(self, pixel_values: Float32Array, progress: Progress | None = None) -> EncodedTiles:
        """A tile's features are its first value; it takes 2 ms, and the projector 1 ms for all."""
        number = len(self.encoded)
        self.encoded.append(pixel_values.copy())
        try:
            for done in range(len(pixel_values)):
                for _ in range(3):  # engines ask more often than a tile is done
                    if progress is not None:
                        progress(done)
                if done == 0:
                    self._begin("encode", number)
            shape = (len(pixel_values), self.manifest.tokens_per_tile, self.hidden_size)
            features = np.broadcast_to(pixel_values[:, 0, 0, :1, None], shape).astype(np.float32)
            return EncodedTiles(features, 2.0 * len(pixel_values), 1.0)
        finally:
            self.calls.append("encode")

    @property
    def tiles(self) -> int:
        """That were encoded."""
        return sum(len(call) for call in self.encoded)

    def new_sequence(self) -> int:
        name = next(self._names)
        self.sequences[name] = []
        return name

    def fork(self, sequence: int, tokens: int | None = None) -> int:
        copy = self.new_sequence()
        self.sequences[copy] = self.sequences[sequence][:tokens]
        return copy

    def drop(self, sequence: int) -> None:
        del self.sequences[sequence]

    def length(self, sequence: int) -> int:
        return len(self.sequences[sequence])

    def embed(self, token_ids: npt.NDArray[np.int64], features: Float32Array | None) -> Float32Array:
        self.features.append(features)
        return np.repeat(np.asarray(token_ids, np.float32)[:, None], self.hidden_size, axis=1)

    def prefill(
        self,
        sequence: int,
        embeddings: Float32Array,
        all_logits: bool = False,
        progress: Progress | None = None,
    ) -> Float32Array:
        ids = [int(value) for value in embeddings[:, 0]]
        number = len(self.prefills)
        self.prefills.append(ids)
        try:
            self._begin("prefill", number)
            for done in range(0, len(ids), CHUNK):
                if progress is not None:
                    progress(done)
            before = list(self.sequences[sequence])
            self.sequences[sequence] += ids
            self._room()
        finally:
            self.calls.append("prefill")
        ends = range(1, len(ids) + 1) if all_logits else [len(ids)]
        return np.stack([self.logits(before + ids[:end]) for end in ends])

    def decode(
        self, sequences: Sequence[int], tokens: Sequence[int], counts: Sequence[int] | None = None
    ) -> Float32Array:
        counts = [1] * len(sequences) if counts is None else list(counts)
        assert len(set(sequences)) == len(sequences) == len(counts)
        assert sum(counts) == len(tokens)
        number = len(self.runs)
        self.runs.append(counts)
        self._begin("decode", number)
        left = list(tokens)
        for sequence, count in zip(sequences, counts, strict=True):
            self.sequences[sequence] += left[:count]
            del left[:count]
        self._room()
        return np.stack([self.logits(self.sequences[sequence]) for sequence in sequences])

    def _room(self) -> None:
        assert self.free_tokens >= 0, "the scheduler has given more than there is"

    def close(self) -> None:
        self.calls.append("close")


class Recital(PlainEngine):
    """Answers every prompt with given ids, one after the other, the last one for ever."""

    def __init__(self, ids: Sequence[int], cache_tokens: int = 1 << 20) -> None:
        super().__init__(cache_tokens)
        self._ids = list(ids)

    def logits(self, ids: Sequence[int]) -> Float32Array:
        prompt = max((len(p) for p in self.prefills if list(ids[: len(p)]) == p), default=0)
        logits = np.zeros(self.manifest.llm.vocab_size, np.float32)
        logits[self._ids[min(len(ids) - prompt, len(self._ids) - 1)]] = 1
        return logits


class Noise(PlainEngine):
    """Its logits are noise that follows from all ids of a sequence, to the last bit."""

    def logits(self, ids: Sequence[int]) -> Float32Array:
        noise = np.random.default_rng(list(ids)).standard_normal(self.manifest.llm.vocab_size)
        return noise.astype(np.float32)


def tokenizer_of(manifest: Manifest, made: Any) -> PromptTokenizer:
    prompt = manifest.prompt
    return PromptTokenizer(made.to_str(), task_ids=prompt.task_ids, clean_up_spaces=prompt.clean_up_spaces)


def model_of(
    engine: PlainEngine,
    *,
    context_tokens: int | None = None,
    max_wait_s: float = PATIENCE_S,
    max_waiting: int = 256,
    tile_cache_bytes: int = 0,
    frame_tolerance: int = 0,
    prefix_cache_tokens: int = 0,
    made: Any = None,
) -> ivl.Model:
    """A model that computes with such an engine.

    Args:
        engine: its manifest is the model's.
        context_tokens: the whole cache where None.
        max_wait_s: as for ``load``.
        max_waiting: as for ``load``.
        tile_cache_bytes: as for ``load``.
        frame_tolerance: as for ``load``.
        made: the ``tokenizers`` library's tokenizer, that of the tiny bundle where None.
    """
    manifest = engine.manifest
    tokenizer = tokenizer_of(manifest, tiny_tokenizer() if made is None else made)
    return ivl.Model(
        manifest,
        engine,
        tokenizer,
        _core.PromptRenderer(tokenizer, manifest.prompt, manifest.tokens_per_tile),
        context_tokens=context_tokens or engine.cache.tokens,
        threads=1,
        max_wait_s=max_wait_s,
        max_waiting=max_waiting,
        tile_cache_bytes=tile_cache_bytes,
        frame_tolerance=frame_tolerance,
        prefix_cache_tokens=prefix_cache_tokens,
        rules=PictureRules("stored"),
    )
