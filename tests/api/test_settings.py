from __future__ import annotations

import inspect
from typing import Any, get_type_hints

import numpy as np
import pytest

from internvl_rt import PromptError
from internvl_rt.answers.settings import GenerationArguments, GenerationSettings, generation_settings
from internvl_rt.model.asking import AskArguments


def test_arguments_and_settings_have_the_same_names() -> None:
    assert list(get_type_hints(GenerationArguments)) == list(inspect.signature(GenerationSettings).parameters)


def test_the_arguments_of_a_question_include_those_of_its_answer() -> None:
    hints = get_type_hints(AskArguments)
    assert set(get_type_hints(GenerationArguments)) < set(hints)
    assert {"history", "system", "max_tiles", "detail", "as_one", "video", "num_frames"} <= set(hints)


def test_defaults_are_greedy() -> None:
    settings = GenerationSettings()
    assert (settings.do_sample, settings.max_new_tokens, settings.top_k) == (False, 1024, 50)


@pytest.mark.parametrize("zero", [0, 0.0, -0.0, np.float32(0), False])
def test_a_temperature_of_zero_is_greedy(zero: Any) -> None:
    settings = GenerationSettings(do_sample=True, temperature=zero)
    assert not settings.do_sample
    assert settings.temperature == 0.0


def test_values_are_brought_into_one_form() -> None:
    settings = GenerationSettings(max_new_tokens=np.int32(7), temperature=1, stop="END", seed=np.uint8(3))  # type: ignore[arg-type]
    assert (settings.max_new_tokens, settings.temperature, settings.stop, settings.seed) == (
        7,
        1.0,
        ("END",),
        3,
    )
    assert type(settings.max_new_tokens) is int


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", -1),
        ("max_new_tokens", 2.5),
        ("max_new_tokens", True),
        ("max_new_tokens", "8"),
        ("max_new_tokens", 2**40),
        ("temperature", -1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "warm"),
        ("temperature", None),
        ("temperature", 10**400),
        ("top_p", 2),
        ("top_p", 0),
        ("top_p", -0.5),
        ("top_k", -1),
        ("top_k", 1.5),
        ("repetition_penalty", 0),
        ("repetition_penalty", -2.0),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", "x"),
        ("stop", ("",)),
        ("stop", (3,)),
        ("stop", 3),
        ("keep_special_tokens", "some"),
        ("keep_special_tokens", True),
    ],
)
def test_a_value_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(PromptError, match=name):
        generation_settings({name: value})  # type: ignore[misc]


def test_an_unknown_name_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="'temprature' is not an argument"):
        generation_settings({"temprature": 1.0})  # type: ignore[typeddict-unknown-key]
