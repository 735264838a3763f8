"""Position embeddings for another grid of patches: bicubic, as in the authors' code."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

CUBIC_A = -0.75
"""The coefficient of torch's bicubic kernel without antialiasing. Pillow's is -0.5."""


def interpolate_positions(embedding: npt.NDArray[np.float32], grid: int) -> npt.NDArray[np.float32]:
    """Resizes the patch positions to another square grid; the class position stays as it is.

    ``align_corners`` is false and nothing is antialiased.

    Args:
        embedding: float32 [1 + stored * stored, channels], the class position first.
        grid: patches along one side of the new grid.

    Returns:
        float32 [1 + grid * grid, channels].
    """
    stored = round((len(embedding) - 1) ** 0.5)
    if stored == grid:
        return embedding
    weights = _cubic_weights(stored, grid)  # [grid, stored]
    patches = embedding[1:].reshape(stored, stored, -1)
    resized = np.einsum("yr,xc,rch->yxh", weights, weights, patches, optimize=True)
    return np.concatenate([embedding[:1], resized.reshape(grid * grid, -1).astype(np.float32)])


def _cubic_weights(stored: int, grid: int) -> npt.NDArray[np.float64]:
    """The matrix that resizes one axis. Sources beyond the border are the border."""
    centres = (np.arange(grid) + 0.5) * (stored / grid) - 0.5
    first = np.floor(centres)
    weights = np.zeros((grid, stored))
    for tap in range(-1, 3):
        source = np.clip(first + tap, 0, stored - 1).astype(np.intp)
        np.add.at(weights, (np.arange(grid), source), _cubic(np.abs(centres - first - tap)))
    return weights


def _cubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The cubic convolution kernel (Keys 1981) at distances ``x`` from 0 to 2."""
    a = CUBIC_A
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, far)
