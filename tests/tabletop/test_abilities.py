"""Every ability on the small trained model, with pictures that it never saw.

Each is asked of held-out scenes. Where the ability is another way to ask the same thing, its answers are
those of the plain question, token by token; elsewhere what the plain question gets right is right here too.
How much that is belongs to the evaluation of the model; here it is something, so that noise does not pass.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import internvl_rt as ivl
from internvl_rt.answers.reasoning import same_answer
from internvl_rt.tabletop.held_out import checkpoint_folder, held_out_questions, iou, is_right, is_tiled
from internvl_rt.tabletop.questions import FOUR_FRAMES, Question

ASKED = 5
REF = re.compile(r"<ref>(.*?)</ref>")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ivl.Model]:
    bundle = tmp_path_factory.mktemp("tabletop") / "bundle"
    ivl.export(checkpoint_folder(), bundle, weights="fp32", progress=False)
    with ivl.load(bundle, cache_tokens=8192, prefix_cache_tokens=0) as loaded:
        free = loaded._engine.free_tokens
        yield loaded
        assert loaded._engine.free_tokens == free


@functools.cache
def held_out() -> tuple[Question, ...]:
    return tuple(held_out_questions())


def questions(kind: str, language: str | None = None, number: int = ASKED) -> list[Question]:
    """The first of a kind that take one tile a picture."""
    found = [
        question
        for question in held_out()
        if question.kind == kind and not is_tiled(question) and language in (None, question.language)
    ]
    return found[:number]


def plain(model: ivl.Model, question: Question, **arguments: Any) -> ivl.Answer:
    return model.chat(
        question.text, question.images(), max_tiles=1, keep_special_tokens="grounding", **arguments
    )


def check(model: ivl.Model, asked: Sequence[Question], answers: Sequence[str], missed: int = 0) -> None:
    """What the plain question gets right is right, but for ``missed`` of them; and that is something."""
    right = [is_right(question, answer) for question, answer in zip(asked, answers, strict=True)]
    plainly = [is_right(question, plain(model, question).text) for question in asked]
    told = [(q.answer, a) for q, a in zip(asked, answers, strict=True)]
    assert any(right), told
    assert sum(p and not r for p, r in zip(plainly, right, strict=True)) <= missed, told


def test_questions_in_both_languages(model: ivl.Model) -> None:
    for language in ("en", "zh"):
        asked = questions("objects", language)
        check(model, asked, [plain(model, question).text for question in asked])


def test_resolutions(model: ivl.Model) -> None:
    tiled = [question for question in held_out() if is_tiled(question)]
    asked = [question for question in tiled if question.kind == "objects"][:4]
    auto = [model.chat(question.text, question.images()) for question in asked]
    assert all(answer.usage.tiles > 2 for answer in auto)
    assert any(is_right(q, answer.text) for q, answer in zip(asked, auto, strict=True))
    for question, answer in zip(asked, auto, strict=True):
        same = model.chat(question.text, question.images(), max_tiles=model.manifest.tiling.max_tiles)
        assert same.token_ids == answer.token_ids
        assert model.chat(question.text, question.images(), detail="low").usage.tiles == 1


def test_two_pictures(model: ivl.Model) -> None:
    asked = questions("two_pictures")
    answers = [model.chat(question.text, question.images()) for question in asked]
    check(model, asked, [answer.text for answer in answers])
    for question, answer in zip(asked, answers, strict=True):
        # The marks that stand in the text are the ones that are put in front of a text without any.
        bare = question.text.removeprefix("Image-1: <image>\nImage-2: <image>\n")
        assert model.chat(bare, question.images()).token_ids == answer.token_ids


def write_video(path: Path, question: Question, each: int = 5) -> Path:
    """The four scenes, each for a fifth of a second, without loss but for the change of colour space."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        images = question.images()
        stream.width, stream.height = images[0].size
        stream.pix_fmt = "yuv444p"
        for image in images:
            for _ in range(each):
                frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
                for packet in stream.encode(frame):
                    container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def test_the_direction_in_a_video(model: ivl.Model, tmp_path: Path) -> None:
    asked = questions("direction")
    answers = []
    for index, question in enumerate(asked):
        bare = question.text.removeprefix(FOUR_FRAMES)
        assert bare != question.text
        expected = plain(model, question)
        as_list = model.chat(bare, video=question.images())
        camera = (image for image in question.images() for _ in range(5))
        as_iterator = model.chat(bare, video=camera, num_frames=4)
        assert as_list.token_ids == as_iterator.token_ids == expected.token_ids
        video = write_video(tmp_path / f"{index}.mkv", question)
        answers.append(model.chat(bare, video=video, num_frames=4))
        assert answers[-1].usage.tiles == 4
    check(model, asked, [answer.text for answer in answers])


def test_locating(model: ivl.Model) -> None:
    asked = [question for question in questions("box", "en", 99) if "coordinate" in question.text][:ASKED]
    found = []
    for question in asked:
        phrase = REF.findall(question.answer)[0]
        (image,) = question.images()
        location = model.locate(phrase, image)
        assert location.answer.token_ids == plain(model, question).token_ids
        drawn = np.asarray(ivl.draw_boxes(image, location.boxes))
        assert (drawn != np.asarray(image.convert("RGB"))).any()
        if [box.label for box in location.boxes] != [phrase]:
            found.append(False)
            continue
        (box,) = location.boxes
        assert question.box is not None
        scale = (1000 / image.width, 1000 / image.height) * 2
        pixels = (box.x1, box.y1, box.x2, box.y2)
        x1, y1, x2, y2 = (round(value * by) for value, by in zip(pixels, scale, strict=True))
        found.append(iou((x1, y1, x2, y2), question.box) > 0.5)
    assert any(found), found
    assert found == [is_right(question, plain(model, question).text) for question in asked]


def test_locating_in_chinese(model: ivl.Model) -> None:
    asked = [question for question in questions("box", "zh", 99) if "<ref>" in question.text][:ASKED]
    answers = []
    for question in asked:
        phrase = REF.findall(question.text)[0]
        location = model.locate(phrase, question.images()[0], prompt="请给出<ref>{}</ref>的位置。")
        answers.append(location.answer.grounding_text)
    check(model, asked, answers)


def test_a_vote_on_a_count(model: ivl.Model) -> None:
    asked = questions("count")
    votes = [
        model.vote(question.text, question.images(), n=5, reasoning=None, seed=1, max_new_tokens=32)
        for question in asked
    ]
    check(model, asked, [str(vote.answer) for vote in votes], missed=2)
    for vote in votes:
        said = [same_answer(sample.text) for sample in vote.samples]
        assert said.count(same_answer(str(vote.answer))) == max(vote.counts.values())
        assert sum(vote.counts.values()) == 5


def test_a_vote_among_choices(model: ivl.Model) -> None:
    pytest.importorskip("llguidance")
    asked = questions("two_pictures", "en")
    choices = ["Image-1", "Image-2"]
    votes = [model.vote(question.text, question.images(), n=5, choices=choices, seed=1) for question in asked]
    assert all(set(vote.counts) <= set(choices) for vote in votes)
    check(model, asked, [str(vote.answer) for vote in votes], missed=2)


def test_the_best_of_several(model: ivl.Model) -> None:
    question = questions("count")[0]
    score: Callable[[ivl.Answer], float] = lambda answer: float(answer.text == question.answer)  # noqa: E731
    best = model.best_of(
        question.text, question.images(), n=6, score=score, reasoning=None, temperature=2.0, seed=1
    )
    assert best.samples[0].token_ids == plain(model, question).token_ids
    assert best.scores[best.index] == max(best.scores)
    assert is_right(question, best.answer.text) == (max(best.scores) == 1.0)


def test_several_answers_with_one_to_draw_from_are_the_likeliest(model: ivl.Model) -> None:
    question = questions("objects", "en")[0]
    answers = model.chat(
        question.text,
        question.images(),
        max_tiles=1,
        num_return_sequences=3,
        do_sample=True,
        top_k=1,
        keep_special_tokens="grounding",
    )
    assert {answer.token_ids for answer in answers} == {plain(model, question).token_ids}


def test_a_pattern_that_the_answer_has_anyway_changes_nothing(model: ivl.Model) -> None:
    pytest.importorskip("llguidance")
    asked = questions("label")
    answers = [plain(model, question, pattern="[A-Z0-9]{1,8}").text for question in asked]
    check(model, asked, answers)
    for question, answer in zip(asked, answers, strict=True):
        free = plain(model, question).text
        if re.fullmatch("[A-Z0-9]{1,8}", free):
            assert answer == free


def test_choices(model: ivl.Model) -> None:
    pytest.importorskip("llguidance")
    for language, choices in (("en", ["Image-1", "Image-2"]), ("zh", ["第一张", "第二张"])):
        asked = questions("two_pictures", language)
        answers = [plain(model, question, choices=choices).text for question in asked]
        assert set(answers) <= set(choices)
        check(model, asked, answers)


def test_a_schema_that_it_was_never_trained_on_is_kept(model: ivl.Model) -> None:
    pytest.importorskip("llguidance")
    schema = {
        "type": "object",
        "properties": {
            "count": {"type": "integer", "minimum": 0, "maximum": 9},
            "label": {"type": "boolean"},
        },
        "required": ["count", "label"],
        "additionalProperties": False,
    }
    for question in questions("count", number=3):
        document = json.loads(plain(model, question, schema=schema).text)
        assert 0 <= document["count"] <= 9
        assert type(document["label"]) is bool


def test_a_second_turn_with_another_picture(model: ivl.Model) -> None:
    first, second = questions("objects", "en", 2)
    (one,), (two,) = first.images(), second.images()
    history = [(f"<image>\n{first.text}", first.answer)]
    answer = model.chat(f"<image>\n{second.text}", [one, two], history=history, max_tiles=1)
    assert answer.usage.tiles == 2
    messages = [
        {"role": "user", "content": f"<image>\n{first.text}"},
        {"role": "assistant", "content": first.answer},
        {"role": "user", "content": f"<image>\n{second.text}"},
    ]
    assert model.chat(messages, [one, two], max_tiles=1).token_ids == answer.token_ids
