"""Our own engines, native and onnxruntime."""

from __future__ import annotations

from time import perf_counter

import numpy as np

from contestants.contestant import STAGES, STEPS, Work, pixel_values, token_ids, tokens_of
from internvl_rt.bench.measure import QUESTION
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.model.cache_size import context_of
from internvl_rt.model.loading import assemble

CACHE_TOKENS = 16384
"""For the longest prompt, and beside it what other stages keep; only what is filled takes memory."""
NATIVE_CACHE = "float16"
"""How the native engine keeps keys and values of these models, whose weights are less precise than that."""


class InternvlRt:
    """Satisfies Contestant. The picture is a whole ``Model.chat``: file, tiles, features, prompt, token."""

    stages = STAGES

    def __init__(self, work: Work, engine: str) -> None:
        self.work = work
        bundle = open_bundle(work.bundle)
        cache_tokens, context_tokens = context_of(bundle.manifest, CACHE_TOKENS, None)
        self.model, self.engine = assemble(bundle, engine, cache_tokens, context_tokens, work.threads)
        self.filled: dict[int, int] = {}

    def sample(self, stage: str) -> float:
        if stage == "vit":
            pixels = pixel_values(self.work)
            begun = perf_counter()
            self.engine.encode_tiles(pixels)
            return 1e3 * (perf_counter() - begun)
        if stage == "picture":
            return self._picture()
        count = tokens_of(stage)
        if stage.startswith("prefill "):
            sequence = self.engine.new_sequence()
            begun = perf_counter()
            self._prefill(sequence, count)
            elapsed = 1e3 * (perf_counter() - begun)
            self.engine.drop(sequence)
            return elapsed
        if count not in self.filled:
            self.filled[count] = self.engine.new_sequence()
            self._prefill(self.filled[count], max(1, count))
        batch = 8 if stage.startswith("decode 8 ") else 1
        sequences = [self.engine.fork(self.filled[count]) for _ in range(batch)]
        self.engine.decode(sequences, [1] * batch)  # the first step after a fork copies a block
        begun = perf_counter()
        for step in range(STEPS):
            self.engine.decode(sequences, [step] * batch)
        elapsed = 1e3 * (perf_counter() - begun) / STEPS
        for sequence in sequences:
            self.engine.drop(sequence)
        return elapsed

    def _prefill(self, sequence: int, count: int) -> None:
        embeddings = self.engine.embed(np.array(token_ids(self.work, count)), None)
        self.engine.prefill(sequence, embeddings)

    def _picture(self) -> float:
        answer = self.model.chat(
            QUESTION, images=[self.work.picture], max_tiles=self.work.max_tiles, max_new_tokens=1
        )
        found = answer.usage.tiles, answer.usage.prompt_tokens
        if found != (self.work.picture_tiles, self.work.picture_tokens):
            raise RuntimeError(f"the others are given another picture: here it has {found} tiles and tokens")
        return answer.timings.first_token
