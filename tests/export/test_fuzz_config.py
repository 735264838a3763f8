"""Whatever stands in a checkpoint's JSON files, an export ends well or with a CheckpointError, and soon."""

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from export.checkpoints import TINY_INTERNLM2, TINY_PHI3, TINY_QWEN2, Files, Layout, Model, write_checkpoint
from internvl_rt.errors import CheckpointError
from internvl_rt.export.exporter import export

SECONDS = 4.0
"""For each kind of checkpoint."""

VALUES: tuple[Any, ...] = (
    ...,  # removed
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    3,
    7,
    2**31,
    2**62 + 1,
    10**4000,
    1e300,
    1e-320,
    -0.5,
    0.3,
    "",
    "x",
    "default",
    "\ud800",
    [],
    {},
    [[1]],
    [None, None],
    [10**4000] * 2,
    {"a": 10**4000},
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1, "high_freq_factor": 4},
    {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [1.0] * 8},
    {"quant_method": [1]},
    {"quant_method": "awq", "group_size": 0},
)

ROPES = {
    "dynamic": {"type": "dynamic", "factor": 2.0},
    "linear": {"rope_type": "linear", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    },
    "longrope": {
        "rope_type": "longrope",
        "short_factor": [1.0] * 8,
        "long_factor": [2.0] * 8,
        "original_max_position_embeddings": 128,
    },
}

PROCESSOR = {
    "image_processor_type": "GotOcr2ImageProcessorFast",
    "crop_to_patches": True,
    "do_rescale": True,
    "do_normalize": True,
    "rescale_factor": 1 / 255,
    "resample": 3,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "size": {"height": 56, "width": 56},
    "min_patches": 1,
    "max_patches": 12,
}


def places_in(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a document, the innermost too."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places_in(value, (*path, key))


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value in one place."""
    result = copy.deepcopy(document)
    inner = result
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return result


def outcome(folder: Path, out: Path) -> str | None:
    """The message of a refusal, None for an export that ended well."""
    begun = time.monotonic()
    try:
        export(folder, out, overwrite=True)
    except CheckpointError as error:
        message = str(error)
        assert len(message) < 3000
        assert str(folder) in message
        return message
    finally:
        assert time.monotonic() - begun < 30
    return None


INDEX = "model.safetensors.index.json"

KINDS: dict[str, tuple[Model, Layout, str]] = {
    "authors, qwen2": (TINY_QWEN2, "authors", "linear"),
    "authors, internlm2": (TINY_INTERNLM2, "authors", "dynamic"),
    "authors, phi3": (TINY_PHI3, "authors", "longrope"),
    "native": (TINY_QWEN2, "native_second", "llama3"),
}


def make(folder: Path, kind: str) -> dict[str, Any]:
    """A checkpoint whose configuration has a value in every place that is read; its JSON files by name."""
    model, layout, rope = KINDS[kind]
    files: Files = "safetensors" if layout == "authors" else "safetensors_sharded"
    write_checkpoint(folder, model, layout=layout, files=files)
    config = json.loads((folder / "config.json").read_text())
    language = config["llm_config" if layout == "authors" else "text_config"]
    language |= {"rope_scaling": ROPES[rope], "num_key_value_heads": model.kv_heads, "hidden_act": "silu"}
    language |= {"sliding_window": None, "quantization_config": None, "attention_bias": False}
    config |= {"quantization_config": None, "auto_map": {"AutoModel": None}, "flash_mode": False}
    config |= {"transformers_weights": None, "system_message": "Be brief."}
    documents = {"config.json": config}
    if layout != "authors":
        documents["processor_config.json"] = {"image_processor": PROCESSOR}
        documents[INDEX] = json.loads((folder / INDEX).read_text())
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document))
    return documents


@pytest.mark.parametrize("kind", KINDS)
def test_any_value_in_any_place(tmp_path: Path, kind: str) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    documents = make(folder, kind)
    assert outcome(folder, out) is None
    trials = [
        (name, path, value)
        for name, document in documents.items()
        for path in places_in(document)
        for value in VALUES
    ]
    random.Random(kind).shuffle(trials)
    deadline = time.monotonic() + SECONDS
    refused = tried = 0
    for name, path, value in trials:
        if time.monotonic() > deadline:
            break
        (folder / name).write_text(json.dumps(changed(documents[name], path, value)))
        refused += outcome(folder, out) is not None
        (folder / name).write_text(json.dumps(documents[name]))
        tried += 1
    assert tried > 50
    assert refused > tried // 4
