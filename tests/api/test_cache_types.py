"""How keys and values are stored: the caller's choice, which changes no answer of the trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

import internvl_rt as ivl
from bundle.tiny import write_tiny
from internvl_rt import _core
from internvl_rt.engines.native import CacheType
from internvl_rt.errors import DeviceError, PromptError
from internvl_rt.tabletop import KINDS, checkpoint_folder, held_out_questions


def peak_logit_difference(bundle: Path, cache_type: Any) -> float:
    ids = [65 + i % 26 for i in range(100)]
    with ivl.load(bundle, cache_tokens=256) as plain, ivl.load(bundle, cache_type=cache_type) as other:
        return float(abs(plain.logits(ids) - other.logits(ids)).max())


def test_every_type_is_used(tiny_bundle: Path) -> None:
    """A cache in float32 changes nothing, and the others the logits, by their own amounts."""
    found = {kind: peak_logit_difference(tiny_bundle, kind) for kind in ("float16", "bfloat16", "int8")}
    assert peak_logit_difference(tiny_bundle, "float32") == 0.0
    assert 0.0 < found["float16"] < found["bfloat16"]
    assert found["float16"] < found["int8"] < 1.0


def test_the_default_suits_the_weights_and_the_processor(tmp_path: Path) -> None:
    ids = list(range(65, 91))
    half: CacheType = "bfloat16" if _core.attends_in_bfloat16() else "float16"
    defaults: dict[str, CacheType] = {"fp32": "float32", "fp16": "float16", "bf16": half, "int4": half}
    for weights, expected in defaults.items():
        folder = write_tiny(tmp_path / weights, weights=weights)
        with ivl.load(folder, cache_tokens=64) as model:
            logits = model.logits(ids)
        for cache_type in get_args(CacheType):
            with ivl.load(folder, cache_tokens=64, cache_type=cache_type) as model:
                assert (model.logits(ids) == logits).all() == (cache_type == expected)


@pytest.mark.parametrize("wrong", ["float64", "", 16, ["int8"]])
def test_types_that_are_none(tiny_bundle: Path, wrong: Any) -> None:
    with pytest.raises(PromptError, match="cache_type must be one of float32, float16, bfloat16, int8"):
        ivl.load(tiny_bundle, cache_type=wrong)


@pytest.mark.parametrize("engine", ["onnxruntime", "tensorrt"])
def test_engines_without_a_choice_say_so(tiny_bundle: Path, engine: str) -> None:
    with pytest.raises(DeviceError, match=f"engine='{engine}' stores its KV cache in one way"):
        ivl.load(tiny_bundle, engine=engine, cache_type="float16")


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
def test_sixteen_bits_change_no_answer_of_the_trained_model(tmp_path: Path, weights: Any) -> None:
    bundle = ivl.export(checkpoint_folder(), tmp_path / "out", weights=weights, progress=False)
    asked = [[q for q in held_out_questions() if q.kind == kind][:3] for kind in KINDS]
    questions = [question for kind in asked for question in kind]
    written = []
    kinds: tuple[CacheType, ...] = ("float32", "float16", "bfloat16")
    for cache_type in kinds:
        with ivl.load(bundle, cache_tokens=2048, cache_type=cache_type) as model:
            written.append(
                [
                    model.chat(q.text, q.images(), max_new_tokens=32, keep_special_tokens="grounding").text
                    for q in questions
                ]
            )
    assert written[0] == written[1] == written[2]
    assert len(set(written[0])) > 10
