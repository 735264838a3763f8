"""The authors' pipeline, written plainly over Pillow and NumPy: what the kernels must equal bit for bit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
PILLOW = tuple(map(int, PIL.__version__.split(".")[:2]))


def grid(width: int, height: int, max_tiles: int, min_tiles: int = 1, size: int = 448) -> tuple[int, int]:
    """Section 5.2 of the reference page, steps 2 to 4."""
    grids = [
        (i, j)
        for i in range(1, max_tiles + 1)
        for j in range(1, max_tiles + 1)
        if min_tiles <= i * j <= max_tiles
    ]
    grids.sort(key=lambda g: g[0] * g[1])
    best, best_difference = (1, 1), float("inf")
    for i, j in grids:
        difference = abs(width / height - i / j)
        if difference < best_difference:
            best, best_difference = (i, j), difference
        elif difference == best_difference and width * height > 0.5 * size * size * i * j:
            best = (i, j)
    return best


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Pillow 12.3's bicubic resize, one direction at a time where a release has another order."""
    if not (12, 3) <= PILLOW < (13, 0):
        tall = image.height > 100 * image.width and size[1] < image.height
        image = image.resize((image.width, size[1]) if tall else (size[0], image.height))
    return image.resize(size)


def tiles(
    image: Image.Image, max_tiles: int, min_tiles: int = 1, size: int = 448, thumbnail: bool = True
) -> npt.NDArray[np.uint8]:
    """Steps 1 and 5 to 7: uint8 [B, S, S, 3]."""
    image = image.convert("RGB")
    columns, rows = grid(image.width, image.height, max_tiles, min_tiles, size)
    resized = resize(image, (size * columns, size * rows))
    cut = []
    for t in range(columns * rows):
        left, top = t % columns * size, t // columns * size
        cut.append(np.asarray(resized.crop((left, top, left + size, top + size))))
    if thumbnail and len(cut) > 1:
        cut.append(np.asarray(resize(image, (size, size))))
    return np.stack(cut)


def pixel_values(tiles: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Step 8: float32 [B, 3, S, S]."""
    scaled = tiles.astype(np.float32) / np.float32(255)
    normalised = (scaled - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))
