"""What a measurement is, and the statistics that are told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from internvl_rt.errors import PromptError
from internvl_rt.images import MAX_PIXELS

if TYPE_CHECKING:
    from internvl_rt.engines.native import CacheType


@dataclass(frozen=True)
class BenchOptions:
    """What is measured.

    Raises:
        PromptError: if a number is out of range.
    """

    image_size: tuple[int, int] = (1920, 1080)
    """(width, height) of the picture, which is drawn and saved as JPEG; not used with ``image``."""
    image: str | None = None
    """The path of a picture to use instead."""
    max_tiles: int | None = None
    prompt_tokens: int = 512
    """Length of the text that prefill is measured with."""
    new_tokens: int = 32
    """Tokens of every answer; stop tokens are ignored, so it is exactly that many."""
    cache_fills: tuple[int, ...] = (256, 1024)
    """Tokens in the cache at which decoding is measured; 0 is an empty cache."""
    repeats: int = 5
    warmup: int = 1
    """Repetitions before those that count."""
    threads: int | None = None
    cache_tokens: int | None = None
    cache_type: CacheType | None = None
    """How the native engine stores keys and values; see ``load``."""

    def __post_init__(self) -> None:
        for name, least in (("prompt_tokens", 1), ("new_tokens", 2), ("repeats", 1), ("warmup", 0)):
            if getattr(self, name) < least:
                raise PromptError(f"{name} must be at least {least}, not {getattr(self, name)}.")
        for fill in self.cache_fills:
            if fill < 0:
                raise PromptError(f"cache_fills must be 0 tokens or more, not {fill}.")
        if min(self.image_size) < 1:
            raise PromptError(f"image_size must be at least 1x1, not {self.image_size}.")
        if self.image_size[0] * self.image_size[1] > MAX_PIXELS:
            raise PromptError(f"image_size must be {MAX_PIXELS} pixels at most, not {self.image_size}.")


@dataclass(frozen=True)
class Stage:
    """The time of one stage over all repetitions, in milliseconds of wall-clock time."""

    name: str
    samples_ms: tuple[float, ...]
    tokens: int | None = None
    """Tokens that one sample computes, where tokens per second mean something."""

    def percentile(self, percent: float) -> float:
        """A percentile of the samples, interpolated; 50 is the median."""
        return float(np.percentile(self.samples_ms, percent))

    @property
    def tokens_per_second(self) -> float | None:
        """By the median."""
        median = self.percentile(50)
        return None if self.tokens is None or median <= 0 else self.tokens * 1000.0 / median

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "name": self.name,
            "unit": "ms",
            "p50": self.percentile(50),
            "p95": self.percentile(95),
            "p99": self.percentile(99),
            "min": min(self.samples_ms),
            "max": max(self.samples_ms),
            "repeats": len(self.samples_ms),
            "tokens": self.tokens,
            "tokens_per_second": self.tokens_per_second,
            "samples": list(self.samples_ms),
        }


@dataclass(frozen=True)
class Memory:
    """Memory of the process that measured one engine and did nothing else, in bytes."""

    peak: int
    """The most that was resident at any time, mapped weights included."""
    loaded: int | None
    """Resident after loading, before the first question."""
    anonymous: int | None
    """Resident at the end without mapped files: what cannot be shared or dropped by the system."""


@dataclass(frozen=True)
class EngineReport:
    """The measurements of one engine."""

    engine: str
    load_ms: float
    tiles: int
    image_tokens: int
    prompt_tokens: int
    """Of the question about the picture."""
    stages: tuple[Stage, ...]
    memory: Memory

    def stage(self, name: str) -> Stage:
        """A stage by its name."""
        return next(stage for stage in self.stages if stage.name == name)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "stages": [stage.document() for stage in self.stages]}


@dataclass(frozen=True)
class Machine:
    """Where it was measured."""

    cpu: str
    cores: int
    instruction_set: str
    load_average: float | None
    """Processes that were waiting for a core, over the minute before: above 0.5 others were measured too."""


@dataclass(frozen=True)
class BenchReport:
    """Everything that ``internvl-rt bench`` tells."""

    model: str
    precision: dict[str, str]
    version: str
    machine: Machine
    options: BenchOptions
    engines: tuple[EngineReport, ...]
    failed: dict[str, str] = field(default_factory=dict)
    """The engines that could not be measured beside these, and why."""

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "engines": [engine.document() for engine in self.engines]}


def stages_of(samples: dict[str, list[float]], tokens: dict[str, int]) -> Sequence[Stage]:
    """Collected samples as stages, in their order."""
    return [Stage(name, tuple(values), tokens.get(name)) for name, values in samples.items()]
