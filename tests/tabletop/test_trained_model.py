"""End to end on the trained model: from a picture to the right answer, on every engine and precision."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import internvl_rt as ivl
from internvl_rt.export.calibration import Calibration
from internvl_rt.tabletop import (
    KINDS,
    Scene,
    answers_of,
    checkpoint_folder,
    draw,
    evaluate,
    held_out_questions,
    is_right,
    make_scene,
)
from internvl_rt.tabletop.held_out import iou
from parity.compare import cosines

PRECISIONS = (("fp32", "fp32"), ("bf16", "bf16"), ("int8", "int8"), ("int4", "int8"))
ENGINES = ("native", "onnxruntime")

# Of the first ten held-out questions of a kind, the fewest that may be answered right.
LEAST_RIGHT = {
    "objects": 9,
    "count": 7,
    "label": 9,
    "box": 9,
    "two_pictures": 10,
    "direction": 10,
    "text_only": 10,
}

Bundle = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The trained checkpoint, exported once for each precision that is asked for."""
    made: dict[tuple[str, str], Path] = {}

    def export(weights: str, vision: str) -> Path:
        if (weights, vision) not in made:
            made[weights, vision] = tmp_path_factory.mktemp("tabletop") / f"{weights}-{vision}"
            ivl.export(
                checkpoint_folder(), made[weights, vision], weights=weights, vision=vision, progress=False
            )
        return made[weights, vision]

    return export


@pytest.fixture(scope="module", params=ENGINES)
def model(bundle: Bundle, request: pytest.FixtureRequest) -> Iterator[ivl.Model]:
    with ivl.load(bundle("bf16", "bf16"), engine=request.param, cache_tokens=2048) as loaded:
        yield loaded


def kitchen(width: int = 480, height: int = 480) -> Scene:
    """A red ball, a blue cube and a green cup, in an order of its own, and a label."""
    kinds = (("red", "ball"), ("blue", "cube"), ("green", "cup"))
    return make_scene(
        np.random.default_rng(3),
        width=width,
        height=height,
        objects=3,
        label_lengths=(4,),
        held_out=True,
        kinds=kinds,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_questions_of_every_kind(model: ivl.Model, kind: str) -> None:
    questions = [question for question in held_out_questions() if question.kind == kind][:10]
    ask = answers_of(model)
    answers = [ask(question.text, question.images()) for question in questions]
    right = [is_right(q, a) for q, a in zip(questions, answers, strict=True)]
    assert sum(right) >= LEAST_RIGHT[kind], list(zip([q.answer for q in questions], answers, strict=True))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("weights", "vision"), PRECISIONS)
def test_precisions_lose_nothing_to_speak_of(bundle: Bundle, engine: str, weights: str, vision: str) -> None:
    """The whole set is asked by benchmarks/accuracy.py; this is every twelfth question of it."""
    questions = held_out_questions()[::12]
    with ivl.load(bundle(weights, vision), engine=engine, cache_tokens=2048) as model:
        found = evaluate(answers_of(model), questions)
    assert found.overall.asked == 42
    assert found.overall.right >= 38, found.mistakes


def test_a_tower_calibrated_on_pictures(bundle: Bundle, tmp_path: Path) -> None:
    """From a folder of pictures to answers: matrices are kept or smoothed, and other pictures look the same.

    Activations are int8 in the native engine. Nothing is 50 times the rest in this tower: what is asked of
    outliers is asked of planted ones, in tests/export.
    """
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    random = np.random.default_rng(11)
    for i in range(8):
        scene = make_scene(random, width=448, height=448, objects=1 + i % 4, label_lengths=(3,))
        draw(scene).save(pictures / f"{i}.png")
    reports: list[Calibration] = []
    folder = ivl.export(
        checkpoint_folder(),
        tmp_path / "calibrated",
        weights="bf16",
        vision="int8",
        calibrate=pictures,
        on_calibration=reports.append,
        progress=False,
    )
    matrices = reports[0].matrices
    kept = [m for m in matrices if m.precision == "bf16"]
    assert len(kept) <= len(matrices) // 10, kept
    assert all(m.plain <= m.smoothed and (m in kept or m.smoothed >= 0.999) for m in matrices)

    questions = [question for question in held_out_questions()[::24] if question.kind != "text_only"]
    with (
        ivl.load(bundle("bf16", "bf16"), cache_tokens=2048) as exact,
        ivl.load(folder, cache_tokens=2048) as model,
    ):
        for question in questions[:6]:
            picture = question.images()[0]
            wanted, found = (
                engine.encode(picture, max_tiles=2).features.astype(np.float64) for engine in (exact, model)
            )
            # The tower's contract; a token of little size may be off by more.
            lengths = np.linalg.norm(wanted) * np.linalg.norm(found)
            assert np.vdot(wanted, found) >= 0.999 * lengths
            assert np.quantile(cosines(found, wanted), 0.01) >= 0.998
        right = [
            [is_right(q, ask(q.text, q.images())) for q in questions]
            for ask in (answers_of(exact), answers_of(model))
        ]
    assert sum(right[1]) >= sum(right[0]) - 1, right


def test_answers_about_one_scene_in_both_languages(model: ivl.Model) -> None:
    scene = kitchen()
    shown = model.encode(draw(scene))
    names = [thing.name for thing in scene.objects]
    chinese = {"red ball": "红色球", "blue cube": "蓝色方块", "green cup": "绿色杯子"}
    expected = {
        "What objects are on the table, from left to right?": ", ".join(names),
        "桌上从左到右有哪些物体？": "、".join(chinese[name] for name in names),
        "How many objects are on the table?": f"{', '.join(names)}: 3",
        "有几个红色的物体？": "红色球：1",
        "How many stars are there?": "0",
        "What does the label say?": scene.labels[0].text,
        "标签上印了什么？": scene.labels[0].text,
    }
    for asked, wanted in expected.items():
        assert model.chat(asked, [shown]).text == wanted, asked


def test_a_stream_says_the_same_piece_by_piece(model: ivl.Model) -> None:
    picture = draw(kitchen())
    asked = "桌上从左到右有哪些物体？"
    whole = model.chat(asked, [picture])
    pieces = list(model.stream(asked, [picture]))
    assert len(pieces) > 3
    assert "".join(piece.text for piece in pieces) == whole.text
    assert pieces[-1].result is not None
    assert pieces[-1].result.token_ids == whole.token_ids


def test_the_answer_is_about_the_picture_that_was_given(model: ivl.Model) -> None:
    """Features that are kept never answer for another picture."""
    asked = "What does the label say?"
    scenes = [
        make_scene(
            np.random.default_rng(seed),
            width=448,
            height=448,
            objects=1,
            label_lengths=(3,),
            held_out=True,
        )
        for seed in range(4)
    ]
    shown = [model.encode(draw(scene)) for scene in scenes]
    for _ in range(2):
        for scene, features in zip(scenes, shown, strict=True):
            assert model.chat(asked, [features]).text == scene.labels[0].text


def test_two_pictures_are_told_apart(model: ivl.Model) -> None:
    first, second = (
        kitchen(),
        make_scene(np.random.default_rng(5), width=448, height=448, objects=1, kinds=(("black", "star"),)),
    )
    asked = "Image-1: <image>\nImage-2: <image>\nWhich picture contains a {}?"
    pictures = [draw(first), draw(second)]
    assert model.chat(asked.format("black star"), pictures).text == "Image-2"
    assert model.chat(asked.format("black star"), pictures[::-1]).text == "Image-1"
    assert model.chat(asked.format("red ball"), pictures).text == "Image-1"


@pytest.mark.parametrize(("width", "height"), [(480, 480), (760, 380), (800, 800)])
def test_boxes_are_pixels_of_the_original_picture(model: ivl.Model, width: int, height: int) -> None:
    """A photograph's size and format: three times the canvas, as JPEG bytes."""
    scale = 3.0
    scene = kitchen(width, height)
    picture = draw(scene, scale)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    with Image.open(io.BytesIO(file.getvalue())) as opened:
        assert opened.size == (round(width * scale), round(height * scale))
    thing = next(thing for thing in scene.objects if thing.name == "red ball")
    (box,) = model.chat("Where is the red ball?", [file.getvalue()]).boxes()
    assert box.label == "red ball"
    found = tuple(round(value) for value in (box.x1, box.y1, box.x2, box.y2))
    wanted = tuple(round(value * scale) for value in thing.box)
    assert iou((found[0], found[1], found[2], found[3]), (wanted[0], wanted[1], wanted[2], wanted[3])) > 0.5
