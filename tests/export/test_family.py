"""The family's table, against the parameter counts that the models were published with."""

from __future__ import annotations

from math import prod

import pytest

from internvl_rt.bundle.ranges import check_ranges
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
    ],
)
def test_published_totals(name: str, billions: float) -> None:
    assert round(parameters(name) / 1e9, 1) == billions


@pytest.mark.parametrize("name", FAMILY)
def test_every_model_has_a_manifest_that_is_possible_at_int4(name: str) -> None:
    manifest = synthetic_manifest(name, weights="int4", vision="int8")
    check_ranges(manifest, name)
    assert manifest.tokens_per_tile == 256


def test_names_are_forgiving_and_unknown_ones_list_the_table() -> None:
    assert family_model("internvl2.5-1b") is FAMILY["InternVL2_5-1B"]
    with pytest.raises(CheckpointError, match=r"InternVL9.*InternVL2_5-78B"):
        family_model("InternVL9")
