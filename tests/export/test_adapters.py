"""Adapters that are not merged into the weights are named, with what to do; merged ones are exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from export.checkpoints import TINY_QWEN2, save_weights, write_checkpoint
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.errors import CheckpointError
from internvl_rt.export.exporter import export

Q = "language_model.model.layers.0.self_attn.q_proj"
FC1 = "vision_model.encoder.layers.1.mlp.fc1"


def adapter_config(folder: Path, **settings: Any) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (
            {"peft_type": "LORA", "base_model_name_or_path": "o/VL-1B"},
            r"a LoRA adapter to o/VL-1B",
        ),
        ({"peft_type": "LORA", "use_dora": True}, "a DoRA adapter"),
        ({"peft_type": "ADALORA"}, "an? AdaLoRA adapter"),
        ({"peft_type": "IA3"}, "an? IA3 adapter"),
        ({"peft_type": "PROMPT_TUNING"}, "a prompt tuning adapter"),
        ({"peft_type": "SOMETHING_NEW"}, "a SOMETHING_NEW adapter"),
        ({"peft_type": [1], "base_model_name_or_path": 3}, "holds an adapter"),
        ({}, "holds an adapter"),
    ],
)
@pytest.mark.parametrize("beside_weights", [False, True])
def test_a_folder_with_an_adapter(
    tmp_path: Path, settings: dict[str, Any], named: str, beside_weights: bool
) -> None:
    if beside_weights:
        write_checkpoint(tmp_path / "in", TINY_QWEN2)
    adapter_config(tmp_path / "in", **settings)
    with pytest.raises(CheckpointError, match=rf"{named}.*not merged.*[Mm]erge"):
        export(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_without_its_configuration(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"an adapter.*merge"):
        export(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("module", "parameters", "kind"),
    [
        (Q, ("lora_A.default.weight", "lora_B.default.weight"), "LoRA"),
        (FC1, ("lora_A.weight", "lora_B.weight"), "LoRA"),
        (Q, ("lora_A.default.weight", "lora_magnitude_vector.default.weight"), "DoRA"),
        (Q, ("hada_w1_a.default", "hada_w1_b.default"), "LoHa"),
        (Q, ("lokr_w1.default", "lokr_w2_a.default"), "LoKr"),
        (Q, ("ia3_l.default",), "IA3"),
        (Q, ("vera_lambda_b.default",), "VeRA"),
        (Q, ("oft_r.default",), "OFT"),
        (Q, ("boft_R.default",), "BOFT"),
        (Q, (), "peft"),
    ],
)
@pytest.mark.parametrize("files", ["safetensors", "bin_sharded"])
def test_wrapped_layers(
    tmp_path: Path, module: str, parameters: tuple[str, ...], kind: str, files: Any
) -> None:
    """The weight of a layer that peft wrapped is ``base_layer.weight``, its adapter's beside it."""
    write_checkpoint(tmp_path / "in", TINY_QWEN2, config_changes={"use_llm_lora": 16})
    path = tmp_path / "in" / "model.safetensors"
    tensors = load_file(path)
    path.unlink()
    tensors[f"{module}.base_layer.weight"] = tensors.pop(f"{module}.weight")
    tensors |= {f"{module}.{name}": torch.ones(4, 4) for name in parameters}
    save_weights(tmp_path / "in", tensors, files)
    with pytest.raises(CheckpointError, match=rf"a {kind} adapter that is not merged.*merge"):
        export(tmp_path / "in", tmp_path / "out")


def test_a_model_inside_of_a_wrapper(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "in", TINY_QWEN2)
    path = tmp_path / "in" / "model.safetensors"
    tensors = {f"base_model.model.{name}": tensor for name, tensor in load_file(path).items()}
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="a peft adapter that is not merged"):
        export(tmp_path / "in", tmp_path / "out")


def test_merged_weights_whose_configuration_still_speaks_of_lora(tmp_path: Path) -> None:
    """Merging tools leave the ranks of the training there; the weights are whole."""
    write_checkpoint(tmp_path / "plain", TINY_QWEN2)
    write_checkpoint(
        tmp_path / "merged", TINY_QWEN2, config_changes={"use_llm_lora": 128, "use_backbone_lora": 16}
    )
    plain, merged = (
        open_bundle(export(tmp_path / name, tmp_path / f"{name}-out", weights="fp32"))
        for name in ("plain", "merged")
    )
    np.testing.assert_array_equal(np.fromfile(merged.weights, np.uint8), np.fromfile(plain.weights, np.uint8))
