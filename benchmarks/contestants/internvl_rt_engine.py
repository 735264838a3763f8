"""Our own engines, native and onnxruntime."""

from __future__ import annotations

from time import perf_counter

import numpy as np

from contestants.contestant import PROMPT_TOKENS, STEPS, Work, cache_fill, pixel_values, token_ids
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.generation import PREFILL_CHUNK
from internvl_rt.loading import start_engine

CACHE_TOKENS = 8192
NATIVE_CACHE = "float16"
"""How the native engine keeps keys and values of these models, whose weights are less precise than that."""


class InternvlRt:
    """Satisfies Contestant."""

    stages = ("vit", "prefill", "decode 0", "decode 1024", "decode 4096", "decode 8 at 1024", "picture")

    def __init__(self, work: Work, engine: str) -> None:
        self.work = work
        self.engine = start_engine(engine, open_bundle(work.bundle), CACHE_TOKENS, work.threads)
        self.pixels = pixel_values(work)
        self.filled: dict[int, int] = {}

    def sample(self, stage: str) -> float:
        if stage == "vit":
            begun = perf_counter()
            self.engine.encode_tiles(self.pixels)
            return 1e3 * (perf_counter() - begun)
        if stage == "picture":
            return self._picture()
        if stage == "prefill":
            sequence = self.engine.new_sequence()
            begun = perf_counter()
            self._prefill(sequence, PROMPT_TOKENS)
            elapsed = 1e3 * (perf_counter() - begun)
            self.engine.drop(sequence)
            return elapsed
        fill = cache_fill(stage)
        if fill not in self.filled:
            self.filled[fill] = self.engine.new_sequence()
            self._prefill(self.filled[fill], max(1, fill))
        count = 8 if stage.startswith("decode 8 ") else 1
        sequences = [self.engine.fork(self.filled[fill]) for _ in range(count)]
        self.engine.decode(sequences, [1] * count)  # the first step after a fork copies a block
        begun = perf_counter()
        for step in range(STEPS):
            self.engine.decode(sequences, [step] * count)
        elapsed = 1e3 * (perf_counter() - begun) / STEPS
        for sequence in sequences:
            self.engine.drop(sequence)
        return elapsed

    def _prefill(self, sequence: int, count: int) -> None:
        embeddings = self.engine.embed(np.array(token_ids(self.work, count)), None)
        for start in range(0, count, PREFILL_CHUNK):
            self.engine.prefill(sequence, embeddings[start : start + PREFILL_CHUNK])

    def _picture(self) -> float:
        """Different tiles, so that none is recognised as another's equal; then the prompt."""
        tiles = np.random.default_rng(2).standard_normal((self.work.picture_tiles, *self.pixels.shape[1:]))
        sequence = self.engine.new_sequence()
        begun = perf_counter()
        self.engine.encode_tiles(tiles.astype(np.float32))
        self._prefill(sequence, self.work.picture_tokens)
        elapsed = 1e3 * (perf_counter() - begun)
        self.engine.drop(sequence)
        return elapsed
