"""What every engine asks of the tiles that it is given."""

from __future__ import annotations

import numpy as np

from internvl_rt.bundle.manifest import Vision
from internvl_rt.engines.engine import Float32Array
from internvl_rt.errors import ImageError


def check_pixel_values(pixel_values: Float32Array, vision: Vision) -> None:
    """Raises ImageError unless ``pixel_values`` are float32 tiles of the tower's size, at least one."""
    expected = (
        f"float32 [tiles, 3, {vision.image_size}, {vision.image_size}] with at least one tile. "
        "internvl_rt.tile_image(image).pixel_values() makes one."
    )
    if not isinstance(pixel_values, np.ndarray):
        raise ImageError(f"pixel_values is a {type(pixel_values).__name__}; expected an array, {expected}")
    shape = pixel_values.shape
    fits = shape[1:] == (3, vision.image_size, vision.image_size) and shape[0] > 0
    if pixel_values.dtype != np.float32 or not fits:
        raise ImageError(f"pixel_values is {pixel_values.dtype} {list(shape)}; expected {expected}")
