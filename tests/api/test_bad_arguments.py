"""Arguments that a new user may get wrong: each is a typed error that says what was expected."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import internvl_rt as ivl
from internvl_rt.errors import (
    BundleError,
    CheckpointError,
    DeviceError,
    ImageError,
    InternVLError,
    PromptError,
)
from internvl_rt.tabletop import checkpoint_folder

any_ivl: Any = ivl


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": ["native"]}, r"engine=\['native'\]: this release has the engines"),
        ({"engine": "onnxruntime", "providers": 3}, "a list of names is expected"),
    ],
)
def test_loading(tiny_bundle: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        ivl.load(tiny_bundle, **options)


@pytest.mark.parametrize("path", [None, 3, b"x", [], "", "a\0b", "x" * 5000, "/etc/passwd"])
def test_what_is_no_bundle(path: Any) -> None:
    with pytest.raises(BundleError):
        ivl.load(path)


@pytest.mark.parametrize("out", [None, 3, "", "a\0b"])
def test_a_place_for_a_bundle_is_checked_before_anything_is_read(out: Any) -> None:
    with pytest.raises(BundleError, match="out is the path of the bundle's folder"):
        ivl.export("/nowhere/at/all", out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dialect": 3}, "dialect=3 is neither one of onnx24"),
        ({"dialect": [3]}, "is neither one of"),
        ({"vision": "int8", "calibrate": 3}, "calibrate is the path of a folder"),
        ({"weights": ""}, "weights='' is not a precision"),
        ({"weights": []}, "is not a precision"),
    ],
)
def test_exporting(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        ivl.export(checkpoint_folder(), tmp_path / "out", progress=False, **options)


@pytest.mark.parametrize("read", [ivl.final_answer, ivl.split_thinking])
@pytest.mark.parametrize("text", [None, 3, b"Answer: 3"])
def test_answers_that_are_no_text(read: Callable[[Any], Any], text: Any) -> None:
    with pytest.raises(PromptError, match="an answer's text is expected"):
        read(text)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0, 3), "frames must be"),
        ((-1, 3), "frames must be"),
        (("a", 3), "frames must be"),
        ((10, 0), "segments must be"),
        ((10, 3.5), "segments must be"),
        ((10, None), "segments must be"),
    ],
)
def test_numbers_of_frames(numbers: tuple[Any, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        ivl.frame_indices(*numbers)
    with pytest.raises(PromptError, match="start must be a finite number"):
        ivl.frame_indices(10, 3, start=float("nan"))
    with pytest.raises(PromptError, match="frame_rate must be a finite number"):
        any_ivl.frame_indices(10, 3, frame_rate="30")


@pytest.mark.parametrize(
    "boxes",
    [
        None,
        3,
        [None],
        [ivl.Box("a", 9.0, 9.0, 3.0, 4.0)],
        [ivl.Box("a", float("nan"), 0.0, 1.0, 1.0)],
        [ivl.Box("a", 0.0, 0.0, 1e30, 1.0)],
        [any_ivl.Box("a", "0", 0.0, 1.0, 1.0)],
        [ivl.Box("a", 0.0, 0.0, 1.0, 1.0, corners=((0.0, float("inf")),) * 4)],
        [any_ivl.Box("a", 0.0, 0.0, 1.0, 1.0, corners=3)],
    ],
)
def test_boxes_that_cannot_be_drawn(boxes: Any) -> None:
    with pytest.raises(PromptError, match=r"draw_boxes takes|cannot be drawn"):
        ivl.draw_boxes(Image.new("RGB", (60, 40)), boxes)


def test_a_picture_size_beyond_all_numbers() -> None:
    with pytest.raises(ImageError, match="image_size must be"):
        ivl.parse_boxes("[[1, 2, 3, 4]]", (10**400, 3))


def test_finding_answers_in_votes(native_model: ivl.Model) -> None:
    asked: dict[str, Any] = {"n": 2, "reasoning": None, "max_new_tokens": 2, "system": ""}
    with pytest.raises(PromptError, match="extract is a function of a text"):
        native_model.vote("Hi", extract=3, **asked)
    with pytest.raises(PromptError, match="extract gave 3"):
        native_model.vote("Hi", extract=lambda text: 3, **asked)


@pytest.mark.parametrize("solutions", [None, 3, "4", [None], {"4"}])
def test_judging(native_model: ivl.Model, solutions: Any) -> None:
    with pytest.raises(PromptError, match="solutions are a list of texts"):
        native_model.judge("2 + 2?", solutions)


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_model_is_in_one_place(native_model: ivl.Model, duplicate: Callable[[ivl.Model], object]) -> None:
    with pytest.raises(InternVLError, match="cannot be copied or sent to another process"):
        duplicate(native_model)
