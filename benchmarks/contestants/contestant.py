"""What a contestant is, and the work that all of them are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

STAGES = (
    "load",
    "vit",
    "prefill 1024",
    "prefill 4096",
    "prefill 8192",
    "decode 0",
    "decode 1024",
    "decode 4096",
    "decode 8 at 1024",
    "picture",
)
"""See Contestant; in the order in which they are measured."""
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
    picture: str
    """The file of the picture of the stage "picture"."""
    max_tiles: int
    picture_tiles: int
    """What the picture is cut into, which is at most ``max_tiles``."""
    picture_tokens: int
    """Prompt tokens of a question about it."""


class Contestant(Protocol):
    """One program, loaded. A stage's sample is milliseconds; stages that it has not are refused by KeyError.

    load         from the bundle's files to a program that is ready: the time that its construction took
    vit          one tile through ViT, pixel shuffle and projector
    prefill N    N tokens into an empty cache
    decode N     a token, N tokens in the cache
    decode 8 at N   a step of eight sequences; ours alone, to be held against one sequence of ours
    picture      a picture and a short question, to the first token of the answer: from the file, or, where
                 the program has no preprocessing of this model, from the pixel values of as many tiles
    """

    @property
    def stages(self) -> tuple[str, ...]:
        """Those that it has; ``load`` is told by whoever constructs it, the others by ``sample``."""

    def sample(self, stage: str) -> float:
        """Runs a stage once."""


def pixel_values(work: Work, tiles: int = 1) -> npt.NDArray[np.float32]:
    """Different tiles, float32 [tiles, 3, S, S]."""
    shape = (tiles, 3, work.tile_size, work.tile_size)
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def token_ids(work: Work, count: int) -> list[int]:
    """Ordinary tokens: the special ones stand at the end of the vocabulary."""
    return [int(i) for i in np.random.default_rng(1).integers(300, max(301, work.vocab_size // 2), count)]


def tokens_of(stage: str) -> int:
    """N of "prefill N", "decode N" and "decode 8 at N"."""
    return int(stage.split()[-1])
