"""What every engine asks of the tiles and embeddings that it is given."""

from __future__ import annotations

from typing import Any

import numpy as np

from internvl_rt.bundle.manifest import Vision
from internvl_rt.engines.engine import Float32Array
from internvl_rt.errors import ImageError, PromptError


def check_pixel_values(pixel_values: Float32Array, vision: Vision) -> None:
    """Raises ImageError unless ``pixel_values`` are float32 tiles of the tower's size, at least one."""
    expected = (
        f"float32 [tiles, 3, {vision.image_size}, {vision.image_size}] with at least one tile. "
        "internvl_rt.tile_image(image).pixel_values() makes one."
    )
    size = (3, vision.image_size, vision.image_size)
    if not (_is_float32(pixel_values) and pixel_values.shape[1:] == size and len(pixel_values)):
        raise ImageError(f"pixel_values is {_described(pixel_values)}; expected {expected}")


def check_embeddings(embeddings: Float32Array, hidden: int) -> None:
    """Raises PromptError unless ``embeddings`` are float32 [n, hidden], n >= 1."""
    if not (
        _is_float32(embeddings) and embeddings.ndim == 2 and embeddings.shape[1] == hidden and len(embeddings)
    ):
        raise PromptError(f"embeddings is {_described(embeddings)}; expected float32 [n, {hidden}], n >= 1.")


def _is_float32(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.float32


def _described(value: Any) -> str:
    """What an argument that should be an array is."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return f"a {type(value).__name__}"
