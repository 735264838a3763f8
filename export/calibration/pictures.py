"""The pictures that a vision tower is calibrated with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from internvl_rt.bundle.manifest import Tiling
from internvl_rt.errors import CheckpointError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")

MOST_TILES = 32
"""More tell nothing new, and all of them are held in memory at once, four megabytes of activations each."""


def calibration_tiles(folder: str | Path, tiling: Tiling) -> npt.NDArray[np.float32]:
    """Normalised tiles of the pictures in a folder.

    Every picture gives a tile that shows the whole of it, and one of its middle at full resolution if it is
    larger than a tile: what a thumbnail looks like, and what the tiles of a grid look like. Where there are
    more than ``MOST_TILES``, those of evenly spaced pictures are taken.

    Args:
        folder: with pictures; subfolders are not looked into.
        tiling: the model's tile size, mean and deviation.

    Returns:
        float32 [tiles, 3, tile_size, tile_size].

    Raises:
        CheckpointError: if there is no such folder, it has no pictures, or one cannot be read.
    """
    try:
        place = Path(folder)
        there = place.is_dir()
    except (TypeError, ValueError):
        raise CheckpointError(f"calibrate is the path of a folder of pictures, not {folder!r:.99}.") from None
    if not there:
        raise CheckpointError(f"{place}: there is no such folder of pictures to calibrate with.")
    paths = sorted(p for p in place.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise CheckpointError(
            f"{place}: there are no pictures to calibrate with ({', '.join(SUFFIXES)}). Put some there, of "
            "the kind that the model will be asked about."
        )
    if len(paths) > MOST_TILES:
        paths = [paths[i * len(paths) // MOST_TILES] for i in range(MOST_TILES)]
    tiles = [tile for path in paths for tile in _tiles(path, tiling.tile_size)]
    if len(tiles) > MOST_TILES:
        tiles = [tiles[i * len(tiles) // MOST_TILES] for i in range(MOST_TILES)]
    values = np.stack(tiles).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    mean, std = (np.asarray(x, np.float32)[:, None, None] for x in (tiling.mean, tiling.std))
    result: npt.NDArray[np.float32] = np.ascontiguousarray((values - mean) / std)
    return result


def _tiles(path: Path, size: int) -> Iterator[npt.NDArray[np.uint8]]:
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CheckpointError(
            f"{path}: this picture cannot be read ({error}). Remove it from the folder."
        ) from error
    yield np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    if left > 0 and top > 0:
        yield np.asarray(picture.crop((left, top, left + size, top + size)))
