"""Questions: answers agree with the scenes they were asked about."""

from __future__ import annotations

import re

import numpy as np
import pytest

from internvl_rt.tabletop.held_out import (
    HELD_OUT_STREAM,
    TRAINING_STREAM,
    Evaluation,
    KindAccuracy,
    evaluate,
    held_out_questions,
    iou,
    is_right,
    is_tiled,
)
from internvl_rt.tabletop.questions import BOX_LATTICE, KINDS, Question, Sampler, named
from internvl_rt.tabletop.scenes import is_held_out_label

QUESTIONS = held_out_questions()


def of_kind(kind: str) -> list[Question]:
    return [question for question in QUESTIONS if question.kind == kind]


def test_the_set_is_the_same_every_time() -> None:
    assert held_out_questions() == QUESTIONS
    assert len(QUESTIONS) == 500
    assert {question.kind for question in QUESTIONS} == set(KINDS)
    assert {question.language for question in QUESTIONS} == {"en", "zh"}


def test_held_out_labels_are_never_printed_in_training() -> None:
    held_out = {label.text for q in QUESTIONS for scene in q.scenes for label in scene.labels}
    assert held_out
    assert all(is_held_out_label(text) for text in held_out)
    sampler = Sampler(np.random.default_rng((TRAINING_STREAM, 1, 1, 0)), max_label_length=6)
    for _ in range(500):
        for scene in sampler.ask("label").scenes:
            assert not is_held_out_label(scene.labels[0].text)
            assert scene.labels[0].text not in held_out


def test_strings_to_repeat_are_split_too() -> None:
    repeated = [q.answer for q in of_kind("text_only") if '"' in q.text]
    assert repeated
    assert all(is_held_out_label(text) for text in repeated)


def test_no_held_out_scene_is_a_training_scene() -> None:
    assert HELD_OUT_STREAM != TRAINING_STREAM
    sampler = Sampler(np.random.default_rng((TRAINING_STREAM, 1, 1, 0)))
    trained = {scene.objects for _ in range(300) for scene in sampler.ask("objects").scenes}
    asked = {scene.objects for q in QUESTIONS for scene in q.scenes if scene.objects}
    assert not trained & asked


def test_objects_are_named_from_left_to_right() -> None:
    for question in of_kind("objects"):
        names = [named(thing.name, question.language) for thing in question.scenes[0].objects]
        separator = ", " if question.language == "en" else "、"
        if names:
            assert question.answer.split(separator) == names
        else:
            assert question.answer in ("nothing", "没有物体")


def test_counts_are_counted() -> None:
    """An answer lists what it counted: "red cup, blue cup: 2"."""
    numbers = [re.split("[:：] ?", question.answer)[-1] for question in of_kind("count")]
    assert set(numbers) >= {"0", "1", "2", "3"}
    for question in of_kind("count"):
        (scene,) = question.scenes
        words = {word for thing in scene.objects for word in thing.name.split()}
        matching = [w for w in words if named(w, question.language) in question.text]
        if question.text in ("How many objects are on the table?", "桌上有几个物体？"):
            expected = [thing.name for thing in scene.objects]
        else:
            expected = [thing.name for thing in scene.objects if matching and matching[0] in thing.name]
        listed = [named(name, question.language) for name in expected]
        if not listed:
            assert question.answer == "0"
        elif question.language == "en":
            assert question.answer == f"{', '.join(listed)}: {len(listed)}"
        else:
            assert question.answer == f"{'、'.join(listed)}：{len(listed)}"


def test_looks_stand_where_the_answer_says_what_they_show() -> None:
    for question in QUESTIONS:
        for look in question.looks:
            (picture, box), *others = look.things
            scene, rest = question.scenes[picture], question.answer[look.at :]
            if question.kind in ("objects", "count"):
                (thing,) = [thing for thing in scene.objects if thing.box == box]
                assert rest.lstrip(", 、").startswith(named(thing.name, question.language))
            elif question.kind == "label":
                assert rest[0] == scene.labels[0].text[look.at]
                assert box == scene.labels[0].cell(look.at)
            elif question.kind == "box":
                assert re.match(r"\d", rest)
                assert not question.answer[look.at - 1].isdigit()
                assert scene.normalised_box(box) == question.box
            else:
                assert question.kind == "two_pictures"
                assert look.at == 0
                assert all(other == picture for other, _ in others)
        if question.kind == "objects":
            assert len(question.looks) == max(0, 2 * len(question.scenes[0].objects) - 1)
        if question.kind == "box":
            assert len(question.looks) == 4


def test_boxes_are_on_the_lattice_and_near_the_truth() -> None:
    for question in of_kind("box"):
        assert question.box is not None
        assert is_right(question, question.answer)
        numbers = [int(part) for part in question.answer.split("[[")[1].split("]]")[0].split(",")]
        assert all(number % BOX_LATTICE == 0 for number in numbers)
        x1, y1, x2, y2 = numbers
        assert iou((x1, y1, x2, y2), question.box) > 0.85


def test_exactly_one_of_two_pictures_contains_it() -> None:
    for question in of_kind("two_pictures"):
        assert question.text.count("<image>") == len(question.images()) == 2
        holding = []
        for scene in question.scenes:
            names = {named(thing.name, question.language) for thing in scene.objects}
            names |= {named("label", question.language)} if scene.labels else set()
            holding.append(any(f" {n}?" in question.text or n in question.text for n in names))
        assert sum(holding) >= 1
        first = question.answer in ("Image-1", "第一张")
        assert holding[0 if first else 1]


def test_the_mover_moves_the_way_that_is_answered() -> None:
    ways = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
    ways |= {"向左": (-1, 0), "向右": (1, 0), "向上": (0, -1), "向下": (0, 1)}
    for question in of_kind("direction"):
        assert question.text.startswith("Frame1: <image>\nFrame2: <image>\n")
        places = []
        for scene in question.scenes:
            (mover,) = [t for t in scene.objects if named(t.name, question.language) in question.text]
            places.append((mover.cx / scene.width, mover.cy / scene.height))
        moved = (places[-1][0] - places[0][0], places[-1][1] - places[0][1])
        way = ways[question.answer]
        assert moved[0] * way[0] + moved[1] * way[1] > 0.2


def test_scoring_by_overlap_and_by_exact_match() -> None:
    question = next(q for q in of_kind("box") if q.language == "en")
    assert question.box is not None
    x1, y1, x2, y2 = question.box
    phrase = question.answer.split("</ref>")[0]

    def answered(*box: int) -> str:
        return f"{phrase}</ref><box>[[{', '.join(map(str, box))}]]</box>"

    width = x2 - x1
    assert is_right(question, answered(x1 + width // 4, y1, x2, y2))
    assert not is_right(question, answered(x1 + width * 3 // 5, y1, x2, y2))
    assert not is_right(question, answered(x2, y2, x1, y1))
    assert not is_right(question, answered(x1, y1, x2, y2).replace("<ref>", "<ref>very "))
    assert not is_right(question, "")
    counted = of_kind("count")[0]
    assert is_right(counted, counted.answer)
    assert not is_right(counted, counted.answer + ".")


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),
        ((0, 0, 10, 10), (5, 0, 15, 10), 1 / 3),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0.0),
    ],
)
def test_iou(a: tuple[int, ...], b: tuple[int, ...], expected: float) -> None:
    assert iou(a, b) == pytest.approx(expected)  # type: ignore[arg-type]


def test_evaluation_counts_per_kind() -> None:
    by_text = {(q.text, tuple(i.tobytes() for i in q.images())): q.answer for q in QUESTIONS[::7]}
    assert by_text

    def oracle(text: str, images: list) -> str:  # type: ignore[type-arg]
        return by_text[text, tuple(image.tobytes() for image in images)]

    perfect = evaluate(oracle, QUESTIONS[::7])
    assert perfect.overall == KindAccuracy(len(QUESTIONS[::7]), len(QUESTIONS[::7]))
    silent = evaluate(lambda *_: "", QUESTIONS[::7])
    assert isinstance(silent, Evaluation)
    assert silent.overall.right == 0
    assert len(silent.mistakes) == len(QUESTIONS[::7])
    assert silent.tiled.asked == sum(is_tiled(q) for q in QUESTIONS[::7]) > 0
