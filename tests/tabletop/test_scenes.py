"""The scene generator: determinism, exact boxes, and the split of labels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from internvl_rt.tabletop.scenes import (
    CHARACTERS,
    COLOURS,
    DIGITS,
    LETTERS,
    SHAPES,
    Scene,
    SceneObject,
    draw,
    is_held_out_label,
    make_scene,
    random_label_text,
)

TABLE = (222, 196, 160)


def scene_of(seed: int, **wanted: object) -> Scene:
    arguments = {"width": 448, "height": 448, "objects": 3, "label_lengths": (3,), **wanted}
    return make_scene(np.random.default_rng((0, seed)), **arguments)  # type: ignore[arg-type]


def test_same_seed_gives_the_same_picture() -> None:
    first, second = scene_of(5), scene_of(5)
    assert first == second
    assert draw(first).tobytes() == draw(second).tobytes()
    assert draw(scene_of(6)).tobytes() != draw(first).tobytes()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.5])
def test_box_is_where_the_object_was_drawn(shape: str, scale: float) -> None:
    thing = SceneObject(shape, "purple", 200.0, 150.0, 90.0, (148, 48, 176))
    scene = Scene(448, 400, TABLE, (), (thing,))
    pixels = np.asarray(draw(scene, scale)).astype(int)
    drawn = np.abs(pixels - np.array(TABLE)).sum(-1) > 30
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    expected = tuple(value * scale for value in thing.box)
    assert found == pytest.approx(expected, abs=2.5)


@pytest.mark.parametrize("seed", range(20))
def test_label_characters_lie_inside_their_cells_and_card(seed: int) -> None:
    scene = scene_of(seed, objects=0, label_lengths=(4,))
    label = scene.labels[0]
    pixels = np.asarray(draw(scene)).astype(int)
    x1, y1, x2, y2 = (round(value) for value in label.box)
    card = pixels[y1 + 3 : y2 - 3, x1 + 3 : x2 - 3]
    ink = np.abs(card - np.array(label.ink)).sum(-1) < 60
    for index in range(4):
        left, _, right, _ = label.cell(index)
        cell = ink[:, round(left) - x1 - 3 : round(right) - x1 - 3]
        # Every cell holds a printed character, and no cell is a block of ink.
        assert 0.03 < cell.mean() < 0.6


@pytest.mark.parametrize("seed", range(30))
def test_things_stay_apart_and_inside(seed: int) -> None:
    scene = scene_of(seed, width=600, height=420, objects=4, label_lengths=(2,))
    boxes = [thing.box for thing in scene.objects] + [label.box for label in scene.labels]
    for box in boxes:
        assert 0 <= box[0] < box[2] <= scene.width
        assert 0 <= box[1] < box[3] <= scene.height
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    centres = [thing.cx for thing in scene.objects]
    assert centres == sorted(centres)
    assert min(np.diff(centres)) > 0.05 * scene.width


def test_normalised_box_counts_in_thousandths_of_the_whole_picture() -> None:
    scene = Scene(800, 400, TABLE, (), ())
    assert scene.normalised_box((80.0, 100.0, 400.0, 400.0)) == (100, 250, 500, 1000)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        scene_of(1, objects=40)


@pytest.mark.parametrize("held_out", [False, True])
def test_labels_come_from_one_side_of_the_split_only(held_out: bool) -> None:
    rng = np.random.default_rng(3)
    texts = {random_label_text(rng, 1 + i % 6, held_out=held_out) for i in range(3000)}
    assert all(is_held_out_label(text) == held_out for text in texts)
    assert {len(text) for text in texts} == {1, 2, 3, 4, 5, 6}
    assert all(set(text) <= set(LETTERS) or set(text) <= set(DIGITS) for text in texts)
    assert set("".join(texts)) == set(CHARACTERS)


def test_one_label_in_ten_is_held_out() -> None:
    share = np.mean([is_held_out_label(f"{a}{b}{c}") for a in LETTERS for b in LETTERS for c in LETTERS])
    assert 0.09 < share < 0.115


def test_every_shape_and_colour_is_drawn() -> None:
    seen = {thing.name for seed in range(150) for thing in scene_of(seed).objects}
    assert seen == {f"{colour} {shape}" for colour in COLOURS for shape in SHAPES}
