"""An engine in Python whose logits have the same bits on every machine.

They follow from all ids and image features of a sequence by integer arithmetic, or from texts that it was
told to say. So whatever becomes of a request follows from what is above the engine alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from internvl_rt._core import CacheRoom
from internvl_rt.bundle.bundle import Bundle
from internvl_rt.engines.engine import EncodedTiles, Float32Array, Progress
from internvl_rt.errors import CacheFullError, PromptError

BLOCK = 16
"""Tokens of a block of the cache. Forks share the full blocks of what they have in common."""
PREFILL_CHUNK = 16
"""Tokens of a prompt between two questions whether to go on."""
FEATURES = 1 << 20
"""Image features are integers below this, which float32 holds exactly."""
NOT_SAID = -512.0
"""Added to the logits of all tokens that a told text does not go on with: their probability is 0 exactly."""

_MASK = (1 << 64) - 1
_ODD = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


@dataclass(frozen=True)
class Reply:
    """A text that the engine may say."""

    ids: tuple[int, ...]
    logit: float
    """Of each of its tokens where they come next, 0 or less; of several texts, the likeliest one is 0."""
    ends: bool
    """A stop token follows it; else whatever the arithmetic gives."""


@dataclass
class _Sequence:
    states: list[int] = field(default_factory=list)
    """After each row: it follows from all rows so far, ids and features alike, in their order."""
    written: list[int] = field(default_factory=list)
    """The tokens of the answer."""
    blocks: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.states)

    @property
    def state(self) -> int:
        return self.states[-1] if self.states else 0


class ArithmeticEngine:
    """Satisfies :class:`internvl_rt.engines.engine.Engine`."""

    name = "arithmetic"

    def __init__(self, bundle: Bundle, *, cache_tokens: int, threads: int | None = None) -> None:
        self._manifest = bundle.manifest
        self.hidden_size = bundle.manifest.llm.hidden_size
        self._numbers = np.arange(self._manifest.llm.vocab_size, dtype=np.uint64) * np.uint64(_ODD[0])
        self._sequences: dict[int, _Sequence] = {}
        self._named = self._blocks_named = 0
        self._cache_tokens = -(-cache_tokens // BLOCK) * BLOCK
        self.replies: Sequence[Reply] = ()
        """What it says; nothing but noise where there are none."""
        self.watch: Callable[[str, int], None] | None = None
        """Called with ``encode``, ``prefill`` or ``decode`` and how often that was before. May raise."""
        self.change: Callable[[Float32Array], Float32Array] | None = None
        """Makes other logits [vocab] of those that would be returned."""
        self.scale = 1.0
        """Of all logits: a little more or less than 1 shows which answers hang on the last bits."""
        self.encoded = 0
        """Tiles."""
        self._calls: dict[str, int] = {}

    def forget(self) -> None:
        """Makes it as it was when it was loaded; sequences stay."""
        self.replies, self.watch, self.change, self.encoded = (), None, None, 0
        self._calls.clear()

    @property
    def sequences(self) -> int:
        """How many there are."""
        return len(self._sequences)

    @property
    def cache(self) -> CacheRoom:
        return CacheRoom(self._cache_tokens, block_tokens=BLOCK, forks_share=True)

    @property
    def free_tokens(self) -> int:
        return self._cache_tokens - BLOCK * len(self._used())

    def encode_tiles(self, pixel_values: Float32Array, progress: Progress | None = None) -> EncodedTiles:
        tiling, flash = self._manifest.tiling, self._manifest.flash
        mean, std = (np.asarray(v, np.float64)[:, None, None] for v in (tiling.mean, tiling.std))
        sums = []
        for done, tile in enumerate(pixel_values):
            self._call("encode")
            if progress is not None:
                progress(done)
            # The pixels as they were: what normalising them rounds is the processor's affair.
            pixels = np.rint((tile * std + mean) * 255).astype(np.uint8)
            sums.append(zlib.crc32(pixels.tobytes()))
            self.encoded += 1
        features = self._features(sums, self._manifest.tokens_per_tile)
        if flash is None:
            return EncodedTiles(features, 0.0, 0.0)
        few = self._features(
            [total ^ _MASK >> 32 for total in sums], self._manifest.tokens_per_compressed_tile
        )
        scores = np.array([total % 64 for total in sums], np.float32) / np.float32(64)
        return EncodedTiles(features, 0.0, 0.0, few, scores)

    def new_sequence(self) -> int:
        return self._new(_Sequence())

    def fork(self, sequence: int, tokens: int | None = None) -> int:
        of = self._sequences[sequence]
        length = of.length if tokens is None else tokens
        blocks = of.blocks[: -(-length // BLOCK)]
        if length % BLOCK:
            blocks[-1] = self._new_block()
        states = of.states[:length]
        written = list(of.written) if length == of.length else []
        return self._new(replace(of, states=states, written=written, blocks=blocks))

    def drop(self, sequence: int) -> None:
        del self._sequences[sequence]

    def length(self, sequence: int) -> int:
        return self._sequences[sequence].length

    def prefill(
        self,
        sequence: int,
        embeddings: Float32Array,
        all_logits: bool = False,
        progress: Progress | None = None,
    ) -> Float32Array:
        of = self._sequences[sequence]
        reached = replace(of, states=list(of.states), written=[], blocks=list(of.blocks))
        logits = []
        for done, row in enumerate(embeddings):
            if done % PREFILL_CHUNK == 0:
                self._call("prefill")
                if progress is not None:
                    progress(done)
            self._append(reached, int(row[0]) + FEATURES * int(row[1]))
            if all_logits:
                logits.append(self._logits(reached))
        self._sequences[sequence] = reached
        return np.stack(logits or [self._logits(reached)])

    def decode(
        self, sequences: Sequence[int], tokens: Sequence[int], counts: Sequence[int] | None = None
    ) -> Float32Array:
        counts = [1] * len(sequences) if counts is None else counts
        assert len(set(sequences)) == len(sequences) == len(counts)
        assert sum(counts) == len(tokens)
        self._call("decode")
        left = list(tokens)
        for sequence, count in zip(sequences, counts, strict=True):
            of = self._sequences[sequence]
            for token in left[:count]:
                self._append(of, int(token))
                of.written.append(int(token))
            del left[:count]
        return np.stack([self._logits(self._sequences[sequence]) for sequence in sequences])

    def embed(self, token_ids: npt.NDArray[np.int64], features: Float32Array | None) -> Float32Array:
        embeddings = np.zeros((len(token_ids), self._manifest.llm.hidden_size), np.float32)
        embeddings[:, 0] = token_ids
        places = token_ids == self._manifest.prompt.image_context_id
        given = 0 if features is None else len(features)
        if int(places.sum()) != given:
            raise PromptError(f"{int(places.sum())} image places and {given} image features.")
        if features is not None:
            embeddings[places] = features
        return embeddings

    def close(self) -> None:
        self._sequences.clear()

    def _new(self, of: _Sequence) -> int:
        self._named += 1
        self._sequences[self._named] = of
        return self._named

    def _new_block(self) -> int:
        self._blocks_named += 1
        return self._blocks_named

    def _used(self) -> set[int]:
        return {block for of in self._sequences.values() for block in of.blocks}

    def _append(self, of: _Sequence, value: int) -> None:
        if of.length % BLOCK == 0:
            of.blocks.append(self._new_block())
            if BLOCK * len(self._used() | set(of.blocks)) > self._cache_tokens:
                raise CacheFullError("the arithmetic engine's cache is full.")
        mixed = ((of.state ^ value) * _ODD[1] + of.length + 1) & _MASK
        of.states.append(mixed ^ mixed >> 31)

    def _call(self, kind: str) -> None:
        before = self._calls.get(kind, 0)
        self._calls[kind] = before + 1
        if self.watch is not None:
            self.watch(kind, before)

    def _features(self, sums: list[int], tokens: int) -> Float32Array:
        """[tiles, tokens, hidden]: an integer for each token, and a 1 that tells it from an id."""
        features = np.zeros((len(sums), tokens, self._manifest.llm.hidden_size), np.float32)
        for row, total in zip(features, sums, strict=True):
            row[:, 0] = [(total * _ODD[2] + token * _ODD[0] >> 16) % FEATURES for token in range(tokens)]
            row[:, 1] = 1
        return features

    def _logits(self, of: _Sequence) -> Float32Array:
        mixed = self._numbers ^ np.uint64(of.state)
        for odd in _ODD[1:]:
            mixed *= np.uint64(odd)
            mixed ^= mixed >> np.uint64(32)
        # Multiples of 1/256 from -8 to 8.
        logits = ((mixed >> np.uint64(52)).astype(np.float32) - np.float32(2048)) / np.float32(256)
        said = self._next_said(of.written)
        if said:
            logits += np.float32(NOT_SAID)
            for token, logit in said.items():
                logits[token] = logit
        if self.scale != 1.0:
            logits *= np.float32(self.scale)
        return logits if self.change is None else self.change(logits)

    def _next_said(self, written: list[int]) -> dict[int, float]:
        """The tokens with which the texts go on that the answer began with, and their logits."""
        found: dict[int, float] = {}
        for reply in self.replies:
            ids = (*reply.ids, self._manifest.prompt.stop_ids[0]) if reply.ends else reply.ids
            if len(written) < len(ids) and list(ids[: len(written)]) == written:
                token = ids[len(written)]
                found[token] = max(reply.logit, found.get(token, reply.logit))
        return found
