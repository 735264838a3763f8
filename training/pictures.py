"""Seeded batches of drawn pictures with their dense targets, made in a worker process."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch.utils.data import DataLoader, IterableDataset

from internvl_rt.tabletop.held_out import TRAINING_STREAM
from internvl_rt.tabletop.questions import LANGUAGES, Question, Sampler
from internvl_rt.tabletop.scenes import Boxes, Scene, draw, make_scene
from preprocess import dense_targets, tile_picture
from prompts import Sequence, sequence_of


@dataclass
class DrawnBatch:
    """tiles uint8 [T, 224, 224, 3]; classes int8 [T, 5, P]; edges float32 [T, 4, P]; the area of the
    picture that each tile shows."""

    tiles: NDArray[np.uint8]
    classes: NDArray[np.int8]
    edges: NDArray[np.float32]
    areas: list[Boxes]


def drawn(scene: Scene, rng: np.random.Generator, max_tiles: int, scale: float = 1.0) -> DrawnBatch:
    picture = draw(scene, scale)
    tiled = tile_picture(picture, max_tiles)
    targets = [dense_targets(scene, area) for area in tiled.areas]
    tiles = tiled.tiles
    if rng.random() < 0.5:
        # Cameras and JPEG leave noise that flat drawings lack.
        most = int(rng.integers(1, 9))
        noise = rng.integers(-most, most, tiles.shape, dtype=np.int16, endpoint=True)
        tiles = np.clip(tiles + noise, 0, 255).astype(np.uint8)
    return DrawnBatch(
        tiles, np.stack([t[0] for t in targets]), np.stack([t[1] for t in targets]), tiled.areas
    )


def canvas(rng: np.random.Generator) -> tuple[int, int]:
    """A nearly square canvas; most of them exactly square, which needs no resizing."""
    if rng.random() < 0.75:
        return 448, 448
    ratio = math.exp(rng.uniform(-0.22, 0.22))
    return round(448 * ratio**0.5), round(448 / ratio**0.5)


def tower_picture(rng: np.random.Generator) -> DrawnBatch:
    """A picture full of things to recognise; several labels in one, because characters are slow."""
    width, height = canvas(rng)
    kind = rng.random()
    if kind < 0.45:
        lengths = tuple(int(n) for n in rng.integers(2, 6, 2 + int(rng.random() < 0.6)))
        objects = int(rng.integers(0, 2))
    elif kind < 0.65:
        lengths, objects = (int(rng.integers(1, 7)),), int(rng.integers(1, 4))
    else:
        lengths, objects = (), int(rng.integers(2, 6))
    scene = make_scene(rng, width=width, height=height, objects=objects, label_lengths=lengths)
    return drawn(scene, rng, max_tiles=1)


def tower_batch(seed: int, index: int, size: int) -> DrawnBatch:
    rng = np.random.default_rng((TRAINING_STREAM, seed, index))
    pictures = [tower_picture(rng) for _ in range(size)]
    return _joined(pictures)


@dataclass
class LanguageBatch:
    """Drawn tiles, and the sequences that look at them, in groups of alike length."""

    drawn: DrawnBatch
    groups: list[list[Sequence]]


@dataclass
class Shown:
    """A scene, its tiles by their number in the batch, and the area that each of them shows."""

    scene: Scene
    tiles: list[int]
    areas: list[Boxes]


def _about_one_picture(sampler: Sampler, scene: Scene) -> list[Question]:
    """Several questions that share one look at the picture."""
    rng = sampler.rng
    kinds = ["count", "count", "count", "box"]
    if rng.random() < 0.6:
        kinds.append("objects")
    if scene.labels:
        kinds.append("label")
    questions = []
    for kind in kinds:
        question = sampler.about(kind, LANGUAGES[rng.integers(2)], scene)
        if question is not None:
            questions.append(question)
    return questions


def language_batch(tokenizer: Tokenizer, seed: int, index: int, done: float) -> LanguageBatch:
    """About 16 tiles: single pictures and four frames, or pictures of several tiles.

    `done`, 0 to 1, is how far training has come: few objects first, then more of them; pictures of
    several tiles and labels of five and six characters at the end.
    """
    rng = np.random.default_rng((TRAINING_STREAM, seed, 1, index))
    sampler = Sampler(rng)
    sampler.max_objects = 2 if done < 0.15 else 3 if done < 0.3 else 4 if done < 0.45 else 5
    tiled_share = 0.0 if done < 0.45 else 0.2
    drawings: list[DrawnBatch] = []
    scenes: list[Shown] = []
    tiles = 0

    def add(scene: Scene, max_tiles: int) -> Shown:
        nonlocal tiles
        drawing = drawn(scene, rng, max_tiles)
        drawings.append(drawing)
        where = list(range(tiles, tiles + len(drawing.tiles)))
        tiles += len(where)
        return Shown(scene, where, drawing.areas)

    tiled = rng.random() < tiled_share
    for number in range(5 if tiled else 10):
        size, max_tiles = canvas(rng), 1
        if tiled and number < 3:
            side = int(rng.integers(400, 640))
            shapes = ((2 * side, side), (side, 2 * side), (700 + side // 3, 700 + side // 3))
            size, max_tiles = shapes[rng.integers(3)], 4
        sampler.max_label_length = 6 if done > 0.5 and rng.random() < 0.15 else 4
        scene = sampler.scene(size, with_label=bool(rng.random() < 0.5))
        scenes.append(add(scene, max_tiles))
    sampler.max_label_length = 4
    moving, frames = None, []
    if not tiled and rng.random() < 0.8:
        moving = sampler.frames(canvas(rng))
        frames = [add(frame, 1) for frame in moving[0]]
    one = []
    for shown in scenes:
        questions = _about_one_picture(sampler, shown.scene)
        one.append(sequence_of(tokenizer, questions, [shown.areas], shown.tiles))
    two = []
    singles = [shown for shown in scenes if len(shown.tiles) == 1]
    order = rng.permutation(len(singles))
    for a, b in zip(order[:8:2], order[1:8:2], strict=False):
        two += _about_two_pictures(tokenizer, sampler, singles[a], singles[b])
    four = [] if moving is None else _about_frames(tokenizer, sampler, moving, frames)
    texts = [_text_only(tokenizer, sampler) for _ in range(2)]
    groups = [group for group in (one, two, four, texts) if group]
    # Pictures full of labels keep the tower reading; they are for the dense targets only.
    drawings += [tower_picture(rng) for _ in range(2)]
    return LanguageBatch(_joined(drawings), groups)


def _text_only(tokenizer: Tokenizer, sampler: Sampler) -> Sequence:
    texts = [sampler.text_only(LANGUAGES[sampler.rng.integers(2)]) for _ in range(4)]
    return sequence_of(tokenizer, texts, [], [])


def _about_two_pictures(
    tokenizer: Tokenizer,
    sampler: Sampler,
    first: Shown,
    second: Shown,
) -> list[Sequence]:
    asked = [sampler.two_pictures(language, (first.scene, second.scene)) for language in LANGUAGES]
    questions = [question for question in asked if question is not None]
    if not questions:
        return []
    return [sequence_of(tokenizer, questions, [first.areas, second.areas], first.tiles + second.tiles)]


def _about_frames(
    tokenizer: Tokenizer,
    sampler: Sampler,
    moving: tuple[tuple[Scene, ...], str, str],
    frames: list[Shown],
) -> list[Sequence]:
    """Forwards and backwards: the same frames show the opposite, so that no single frame helps."""
    _, name, direction = moving
    opposite = {"left": "right", "right": "left", "up": "down", "down": "up"}[direction]
    sequences = []
    for order, way in (((0, 1, 2, 3), direction), ((3, 2, 1, 0), opposite)):
        turned = [frames[i] for i in order]
        shown = (tuple(frame.scene for frame in turned), name, way)
        asked = [sampler.direction(language, shown) for language in LANGUAGES]
        areas, tiles = [frame.areas for frame in turned], [frame.tiles[0] for frame in turned]
        sequences.append(sequence_of(tokenizer, asked, areas, tiles))
    return sequences


def _joined(drawings: list[DrawnBatch]) -> DrawnBatch:
    return DrawnBatch(
        np.concatenate([drawing.tiles for drawing in drawings]),
        np.concatenate([drawing.classes for drawing in drawings]),
        np.concatenate([drawing.edges for drawing in drawings]),
        [area for drawing in drawings for area in drawing.areas],
    )


@dataclass
class TowerBatches(IterableDataset[DrawnBatch]):
    """The batches of the stream of `seed` that `turns` names."""

    seed: int
    turns: range
    size: int

    def __iter__(self) -> Iterator[DrawnBatch]:
        for index in self.turns:
            yield tower_batch(self.seed, index, self.size)


@dataclass
class LanguageBatches(IterableDataset[LanguageBatch]):
    """The batches that `turns` names, from easy to hard by their number out of `last`, or by the
    clock from `since` to `until`."""

    tokenizer_file: str
    seed: int
    turns: range
    last: int
    since: float = 0.0
    until: float | None = None

    def __iter__(self) -> Iterator[LanguageBatch]:
        tokenizer = Tokenizer.from_file(self.tokenizer_file)
        for index in self.turns:
            done = index / self.last
            if self.until is not None:
                done = (time.time() - self.since) / (self.until - self.since)
            yield language_batch(tokenizer, self.seed, index, done)


T = TypeVar("T")


def in_background(batches: IterableDataset[T]) -> Iterator[T]:
    return iter(DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=8))
