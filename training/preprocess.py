"""From pictures to the tower's input: the original tiling, and the targets known under each patch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from internvl_rt.tabletop.scenes import CHARACTERS, COLOURS, SHAPES, Boxes, Scene

TILE = 448
PATCH = 32
# Training sees tiles averaged 2x2: a patch embedding learnt on 16-pixel patches of the averaged
# tile is the same function as one on 32-pixel patches of the tile itself, at a quarter of the cost.
POOL = 2
GRID = TILE // PATCH
PATCHES = GRID * GRID
TOKENS_PER_TILE = PATCHES // 4
MEAN = np.array((0.485, 0.456, 0.406), np.float32)
STD = np.array((0.229, 0.224, 0.225), np.float32)


def choose_grid(width: int, height: int, max_tiles: int) -> tuple[int, int]:
    """(columns, rows) of the original pipeline, with its tie rule."""
    grids = [(i, j) for i in range(1, max_tiles + 1) for j in range(1, max_tiles + 1) if i * j <= max_tiles]
    best, best_difference = (1, 1), float("inf")
    for i, j in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        difference = abs(width / height - i / j)
        roomy = width * height > 0.5 * TILE * TILE * i * j
        if difference < best_difference or (difference == best_difference and roomy):
            best, best_difference = (i, j), difference
    return best


@dataclass
class TiledPicture:
    """`tiles` uint8 [T, 224, 224, 3], averaged 2x2, thumbnail last; `areas` says what part of the
    picture each tile shows, as fractions (x1, y1, x2, y2)."""

    tiles: NDArray[np.uint8]
    areas: list[Boxes]


def tile_picture(picture: Image.Image, max_tiles: int) -> TiledPicture:
    columns, rows = choose_grid(picture.width, picture.height, max_tiles)
    resized = _resized(picture, (TILE * columns, TILE * rows))
    tiles, areas = [], []
    for row in range(rows):
        for column in range(columns):
            x, y = column * TILE, row * TILE
            tiles.append(resized.crop((x, y, x + TILE, y + TILE)))
            areas.append((column / columns, row / rows, (column + 1) / columns, (row + 1) / rows))
    if len(tiles) > 1:
        tiles.append(_resized(picture, (TILE, TILE)))
        areas.append((0.0, 0.0, 1.0, 1.0))
    return TiledPicture(np.stack([np.asarray(tile.reduce(POOL)) for tile in tiles]), areas)


def _resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    if picture.size == size:
        return picture
    return picture.resize(size, Image.Resampling.BICUBIC)


# One row per target: shape (0 none, 1.. shapes, then label), colour, character, index of the
# character in its label, rank of the object from the left; -1 where a target is not defined.
TARGETS = ("shape", "colour", "character", "index", "rank")
CLASSES = {
    "shape": len(SHAPES) + 2,
    "colour": len(COLOURS),
    "character": len(CHARACTERS) + 1,
    "index": 6,
    "rank": 8,
}


def dense_targets(scene: Scene, area: Boxes) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """What lies under the centre of every patch of the tile that shows `area` of the scene.

    Returns int8 [5, P] in the order of TARGETS and float32 [4, P]: the distance of the patch's
    centre from the left, top, right and bottom edge of what it lies on, in tile widths; NaN on the
    bare table.
    """
    classes = np.full((len(TARGETS), GRID, GRID), -1, np.int8)
    classes[0] = 0
    classes[2] = 0
    edges = np.full((4, GRID, GRID), np.nan, np.float32)
    whole = area == (0.0, 0.0, 1.0, 1.0)
    centres = (np.arange(GRID) + 0.5) / GRID

    def in_tile(box: Boxes) -> tuple[Boxes, tuple[slice, slice]]:
        x1 = (box[0] / scene.width - area[0]) / (area[2] - area[0])
        x2 = (box[2] / scene.width - area[0]) / (area[2] - area[0])
        y1 = (box[1] / scene.height - area[1]) / (area[3] - area[1])
        y2 = (box[3] / scene.height - area[1]) / (area[3] - area[1])
        columns = slice(int(np.searchsorted(centres, x1)), int(np.searchsorted(centres, x2)))
        rows = slice(int(np.searchsorted(centres, y1)), int(np.searchsorted(centres, y2)))
        return (max(x1, 0.0), max(y1, 0.0), min(x2, 1.0), min(y2, 1.0)), (rows, columns)

    def mark_edges(box: Boxes, where: tuple[slice, slice]) -> None:
        rows, columns = where
        edges[0][where] = centres[columns][None, :] - box[0]
        edges[1][where] = centres[rows][:, None] - box[1]
        edges[2][where] = box[2] - centres[columns][None, :]
        edges[3][where] = box[3] - centres[rows][:, None]

    for rank, thing in enumerate(scene.objects):
        box, where = in_tile(thing.box)
        classes[0][where] = 1 + SHAPES.index(thing.shape)
        classes[1][where] = COLOURS.index(thing.colour)
        if whole:
            classes[4][where] = rank
        mark_edges(box, where)
    for label in scene.labels:
        box, where = in_tile(label.box)
        classes[0][where] = len(SHAPES) + 1
        mark_edges(box, where)
        for index, character in enumerate(label.text):
            _, cell = in_tile(label.cell(index))
            classes[2][cell] = 1 + CHARACTERS.index(character)
            classes[3][cell] = index
    return classes.reshape(len(TARGETS), PATCHES), edges.reshape(4, PATCHES)
