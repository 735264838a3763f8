"""What a contestant is, and the work that all of them are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

PROMPT_TOKENS = 1024
STEPS = 16
"""Tokens that are decoded for one sample; the sample is their mean, as a user feels it."""


@dataclass(frozen=True)
class Work:
    """The shapes of the model that everybody computes, with random weights."""

    bundle: str
    """A folder that internvl-rt wrote; also its graphs are read by ONNX runtimes."""
    threads: int
    tile_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    rope_theta: float
    norm_eps: float
    vision_hidden_size: int
    vision_intermediate_size: int
    vision_layers: int
    vision_heads: int
    patch_size: int
    picture_tiles: int
    """Tiles of the picture of the stage "picture"."""
    picture_tokens: int
    """Prompt tokens of a question about it."""


class Contestant(Protocol):
    """One program, loaded. A stage's sample is milliseconds; stages that it has not are refused by KeyError.

    vit          one tile through ViT, pixel shuffle and projector
    prefill      PROMPT_TOKENS tokens into an empty cache
    decode N     a token, N tokens in the cache
    decode 8 at N   a step of eight sequences
    """

    stages: tuple[str, ...]

    def sample(self, stage: str) -> float:
        """Runs a stage once."""


def pixel_values(work: Work) -> npt.NDArray[np.float32]:
    """One tile, float32 [1, 3, S, S]."""
    shape = (1, 3, work.tile_size, work.tile_size)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def token_ids(work: Work, count: int) -> list[int]:
    """Ordinary tokens: the special ones stand at the end of the vocabulary."""
    return [int(i) for i in np.random.default_rng(1).integers(300, work.vocab_size // 2, count)]


def cache_fill(stage: str) -> int:
    """N of "decode N" and "decode 8 at N"."""
    return int(stage.split()[-1])
