"""The family's table, against the parameter counts that the models were published with."""

from __future__ import annotations

from math import prod

import pytest

from internvl_rt.bundle.tensors import tensor_specs
from internvl_rt.errors import CheckpointError
from internvl_rt.export.family import FAMILY, family_model
from internvl_rt.export.synthetic import synthetic_manifest


def parameters(name: str, *parts: str) -> int:
    specs = tensor_specs(synthetic_manifest(name))
    return sum(prod(spec.shape) for spec in specs if not parts or spec.name.split(".")[0] in parts)


def test_vision_towers() -> None:
    assert parameters("InternVL2_5-1B", "vit") == 304_012_288
    assert parameters("InternVL2_5-26B", "vit") == 5_536_496_000


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("InternVL2_5-2B", 1.889),
        ("InternVL2-2B", 1.889),
        ("InternVL2_5-8B", 7.738),
        ("InternVL2_5-26B", 19.861),
        ("InternVL-Chat-V1-5", 19.861),
        ("InternVL3_5-1B", 0.752),
        ("InternVL3_5-2B", 2.032),
        ("InternVL3_5-4B", 4.411),
        ("InternVL3_5-8B", 8.191),
        ("InternVL3_5-14B", 14.768),
        ("InternVL3_5-38B", 32.762),
    ],
)
def test_language_models(name: str, billions: float) -> None:
    assert round(parameters(name, "llm") / 1e9, 3) == billions


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("InternVL2_5-1B", 0.938),
        ("InternVL2-1B", 0.938),
        ("InternVL2_5-2B", 2.206),
        ("InternVL2_5-4B", 3.713),
        ("InternVL3-1B", 0.938),
        ("InternVL3-2B", 2.089),
        ("InternVL3-8B", 7.944),
        ("InternVL3-14B", 15.117),
    ],
)
def test_whole_models(name: str, billions: float) -> None:
    assert round(parameters(name) / 1e9, 3) == billions


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("InternVL2_5-38B", 38.4),
        ("InternVL2_5-78B", 78.4),
        ("Mini-InternVL-Chat-2B-V1-5", 2.2),
        ("InternVL2-8B", 8.1),
        ("InternVL2-26B", 25.5),
        ("InternVL-Chat-V1-5", 25.5),
        ("InternVL2_5-26B", 25.5),
        ("Mini-InternVL-Chat-4B-V1-5", 4.1),  # published as 4.2
        ("InternVL2-40B", 40.1),
        ("InternVL2-Llama3-76B", 76.3),
        ("InternVL3-9B", 9.1),
        ("InternVL3-38B", 38.4),
        ("InternVL3-78B", 78.4),
        ("InternVL3_5-1B", 1.1),
        ("InternVL3_5-2B", 2.3),
        ("InternVL3_5-4B", 4.7),
        ("InternVL3_5-8B", 8.5),
        ("InternVL3_5-14B", 15.1),
        ("InternVL3_5-38B", 38.4),
        ("InternVL3_5-30B-A3B", 30.8),
        ("InternVL3_5-241B-A28B", 240.7),
    ],
)
def test_published_totals(name: str, billions: float) -> None:
    assert round(parameters(name) / 1e9, 1) == billions


@pytest.mark.parametrize("name", FAMILY)
def test_every_model_has_a_manifest_that_is_possible_at_int4(name: str) -> None:
    manifest = synthetic_manifest(name, weights="int4", vision="int8")
    manifest.checked(name)
    assert manifest.tokens_per_tile == 256


def test_names_are_forgiving_and_unknown_ones_list_the_table() -> None:
    assert family_model("internvl2.5-1b") is FAMILY["InternVL2_5-1B"]
    with pytest.raises(CheckpointError, match=r"InternVL9.*InternVL2_5-78B"):
        family_model("InternVL9")
