"""What is asked of the core: token ids, and the pictures that stand among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from internvl_rt import _core
from internvl_rt.answers.results import ImageFeatures
from internvl_rt.bundle.manifest import Tiling
from internvl_rt.engines.engine import Float32Array
from internvl_rt.images import Orientation
from internvl_rt.images.tiling import picture_of

Ids: TypeAlias = npt.NDArray[np.int64]
"""Token ids [n]."""

TileProgress: TypeAlias = Callable[[int, int], None]
"""Is told on the way how many tiles are done, and how many there are. What it raises ends the call, which
leaves everything as it was. It must not call the model."""


@dataclass(frozen=True)
class Picture:
    """A picture of a question: pixels that are to be cut into tiles and encoded, or features."""

    rgb: npt.NDArray[np.uint8] | None
    """[height, width, 3]"""
    features: ImageFeatures | None
    max_tiles: int
    tiles: int
    """Its thumbnail included."""
    tiles_wanted: int
    """That it would have in a context that is large enough."""
    size: tuple[int, int]
    """(width, height) in pixels."""
    orientation: Orientation
    decode_ms: float = 0.0
    """What decoding it took."""

    def core(self, tiling: Tiling) -> _core.Picture:
        """As the scheduler takes it."""
        if self.features is not None:
            return _core.Picture.of_features(self.features.rows, self.features.tokens_of_tiles)
        assert self.rgb is not None, "a picture has one of the two"
        return picture_of(self.rgb, tiling, self.max_tiles)


@dataclass(frozen=True)
class Prompt:
    """What is asked, before anything is computed for it."""

    input_ids: Ids
    pictures: tuple[Picture, ...]
    started: float
    """``perf_counter()`` at the call, in seconds."""
    decode_ms: float = 0.0
    """What reading a video took."""
    progress: TileProgress | None = None
    given: Float32Array | None = None
    """Features [image tokens, hidden] that came with the ids, in place of pictures."""
    priority: int = 0
    cache_salt: str = ""
    session: _core.SessionPrompt | None = None
    """What a session asks: its pictures are those of earlier turns, and then ``pictures``."""
