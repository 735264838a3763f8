"""Tiles of a picture, by the rules of the InternVL authors' ``dynamic_preprocess``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from internvl_rt import _core
from internvl_rt.arguments import integer_of
from internvl_rt.bundle.manifest import IMAGENET_MEAN, IMAGENET_STD, Tiling
from internvl_rt.errors import ImageError
from internvl_rt.images.decode import MAX_PIXELS, ImageSource, Orientation, RgbArray, decode_image

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TiledImage:
    """A picture cut into tiles."""

    tiles: RgbArray
    """uint8 [B, S, S, 3]: the grid's tiles in row-major order, then the thumbnail if there is one."""
    grid: tuple[int, int]
    """(columns, rows), the thumbnail not counted."""
    image_size: tuple[int, int]
    """(width, height) of the picture before it was resized."""

    def pixel_values(
        self,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> Float32Array:
        """The tiles as the vision tower takes them: float32 [B, 3, S, S], ``((v / 255) - mean) / std``."""
        channels: Float32Array = self.tiles.transpose(0, 3, 1, 2).astype(np.float32, order="C")
        channels /= np.float32(255)
        channels -= np.asarray(mean, np.float32)[:, None, None]
        channels /= np.asarray(std, np.float32)[:, None, None]
        return channels


def tile_image(
    image: ImageSource,
    max_tiles: int = 12,
    *,
    min_tiles: int = 1,
    tile_size: int = 448,
    thumbnail: bool = True,
    dynamic: bool = True,
    threads: int | None = None,
    orientation: Orientation = "stored",
    max_pixels: int = MAX_PIXELS,
) -> TiledImage:
    """Cuts a picture into tiles.

    The grid has ``min_tiles`` to ``max_tiles`` tiles and the aspect ratio that is nearest to the picture's.
    The picture is resized to fill it, with the bits of Pillow 12.3's bicubic filter.

    Args:
        image: anything that ``decode_image`` takes.
        max_tiles: the most tiles of the grid, 1 to 1024.
        min_tiles: the fewest.
        tile_size: pixels along a tile's side, even.
        thumbnail: add the whole picture as a last tile if the grid has more than one.
        dynamic: False makes the whole picture one tile.
        threads: threads to use; None for one per core.
        orientation: ``exif`` turns the picture as its EXIF says, ``stored`` does not; see ``decode_image``.
        max_pixels: the most pixels of a picture that is decoded.

    Raises:
        ImageError: if the picture cannot be decoded, or an argument is out of range.
    """
    rgb = decode_image(image, max_pixels=max_pixels, orientation=orientation)
    options = _options(
        Tiling(
            tile_size=tile_size,
            min_tiles=min_tiles,
            max_tiles=max_tiles,
            thumbnail=thumbnail,
            dynamic=dynamic,
        )
    )
    tiles, grid = _core.tile_image(_with_contiguous_rows(rgb), options, _team(threads))
    return TiledImage(tiles=tiles, grid=grid, image_size=(rgb.shape[1], rgb.shape[0]))


def tile_pixel_values(
    rgb: RgbArray,
    tiling: Tiling,
    max_tiles: int | None = None,
    threads: int | None = None,
) -> tuple[Float32Array, tuple[int, int]]:
    """Cuts a decoded picture into normalised tiles in one pass over it.

    Args:
        rgb: uint8 [height, width, 3], from ``decode_image``.
        tiling: the model's rules.
        max_tiles: replaces ``tiling.max_tiles``.
        threads: threads to use; None for one per core.

    Returns:
        float32 [B, 3, S, S], and the grid as (columns, rows).

    Raises:
        ImageError: if ``rgb`` has another shape or type, or a number is out of range.
    """
    rgb = decode_image(rgb)
    options = _options(tiling, max_tiles)
    return _core.tile_pixel_values(
        _with_contiguous_rows(rgb), options, tiling.mean, tiling.std, _team(threads)
    )


def picture_of(rgb: RgbArray, tiling: Tiling, max_tiles: int) -> _core.Picture:
    """A decoded picture that the core cuts into so many tiles at most, when it encodes it.

    Args:
        rgb: uint8 [height, width, 3], from ``decode_image``.
        tiling: the model's rules.
        max_tiles: replaces ``tiling.max_tiles``.
    """
    return _core.Picture.of_pixels(_with_contiguous_rows(rgb), _options(tiling, max_tiles))


def count_tiles(size: tuple[int, int], tiling: Tiling, max_tiles: int) -> int:
    """Tiles of a picture of (width, height) pixels, its thumbnail included; see ``tile_pixel_values``."""
    return _core.count_tiles(*size, _options(tiling), max_tiles)


def _options(tiling: Tiling, max_tiles: int | None = None) -> _core.TilingOptions:
    most = tiling.max_tiles if max_tiles is None else max_tiles
    try:
        options = _core.TilingOptions(
            tile_size=tiling.tile_size,
            min_tiles=tiling.min_tiles,
            max_tiles=tiling.max_tiles,
            thumbnail=tiling.thumbnail,
            dynamic=tiling.dynamic,
        )
        return options if max_tiles is None else options.with_at_most(max_tiles)
    except TypeError as error:
        raise ImageError(
            f"max_tiles={most!r}, min_tiles={tiling.min_tiles!r}, tile_size={tiling.tile_size!r}: "
            "expected integers of ordinary size."
        ) from error


def _with_contiguous_rows(rgb: RgbArray) -> RgbArray:
    """The kernels take rows any distance apart, but pixels side by side."""
    side_by_side = rgb.strides[2] == 1 and (rgb.shape[1] == 1 or rgb.strides[1] == 3)
    return rgb if side_by_side else rgb.copy(order="C")


def _team(threads: int | None) -> _core.ThreadTeam:
    if threads is None:
        return _team_of(0, os.getpid())
    number, least, most = integer_of(threads), _core.THREADS.least, _core.THREADS.most
    if number is None:
        raise ImageError(
            f"threads must be an integer of at least {least}, or None for all cores, not {threads!r}."
        )
    if not least <= number <= most:
        raise ImageError(f"threads must be from {least} to {most}, or None for all cores, not {number}.")
    return _team_of(number, os.getpid())


@lru_cache(maxsize=4)
def _team_of(threads: int, process: int) -> _core.ThreadTeam:
    # Teams are kept because starting threads takes as long as tiling a small picture; one per process because
    # threads do not survive a fork.
    del process
    return _core.ThreadTeam(threads)
