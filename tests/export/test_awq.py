"""AWQ checkpoints. They are packed here as AutoAWQ does it: one column of one word after another."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file

from export.checkpoints import TINY_INTERNLM2, TINY_PHI3, TINY_QWEN2, Files, save_weights, write_checkpoint
from export.test_export import stored
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.errors import CheckpointError
from internvl_rt.export.exporter import export
from internvl_rt.export.quantise import dequantise_int4, unpack_int4

WIDER = {"hidden": 128, "head_dim": 32, "intermediate": 256}
QWEN2 = dataclasses.replace(TINY_QWEN2, **WIDER)
INTERNLM2 = dataclasses.replace(TINY_INTERNLM2, **WIDER)
PHI3 = dataclasses.replace(TINY_PHI3, **WIDER)
MODELS = {"qwen2": QWEN2, "internlm2": INTERNLM2, "phi3": PHI3}

ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def pack(columns: npt.NDArray[np.int64]) -> torch.Tensor:
    """4-bit integers [k, n] to words [k, n / 8]."""
    words = np.zeros((columns.shape[0], columns.shape[1] // 8), np.uint32)
    for word in range(words.shape[1]):
        for i in range(8):
            words[:, word] |= (columns[:, word * 8 + ORDER[i]] << (4 * i)).astype(np.uint32)
    return torch.from_numpy(words.view(np.int32))


def quantise(weight: torch.Tensor, group: int) -> tuple[dict[str, torch.Tensor], npt.NDArray[np.float32]]:
    """Asymmetric 4-bit groups from least to largest; and the weights that they stand for."""
    n, k = weight.shape
    groups = weight.float().numpy().reshape(n, k // group, group)
    low, high = groups.min(-1), groups.max(-1)
    scales = ((high - low) / 15).astype(np.float16)
    wide = scales.astype(np.float32)
    zeros = np.clip(np.rint(-low / wide), 0, 15).astype(np.int64)
    values = np.clip(np.rint(groups / wide[..., None]) + zeros[..., None], 0, 15).astype(np.int64)
    means = ((values - zeros[..., None]) * wide[..., None]).astype(np.float32).reshape(n, k)
    tensors = {
        "qweight": pack(values.reshape(n, k).T),
        "qzeros": pack(zeros.T),
        "scales": torch.from_numpy(np.ascontiguousarray(scales.T)),
    }
    return tensors, means


def awq_checkpoint(
    folder: Path,
    model: Any,
    files: Files = "safetensors",
    group: int = 128,
    *,
    nested: bool = True,
    **config: Any,
) -> dict[str, npt.NDArray[np.float32]]:
    """Writes an AWQ checkpoint in the authors' format; returns the values of its layers' weights."""
    write_checkpoint(folder, model)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    means = {}
    for name in list(tensors):
        layer = name.removesuffix(".weight")
        if name.startswith("language_model.model.layers.") and tensors[name].ndim == 2:
            packed, means[name] = quantise(tensors.pop(name), group)
            tensors |= {f"{layer}.{part}": tensor for part, tensor in packed.items()}
    save_weights(folder, tensors, files)
    document = json.loads((folder / "config.json").read_text())
    quantisation = {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": group, **config}
    (document["llm_config"] if nested else document)["quantization_config"] = quantisation
    (folder / "config.json").write_text(json.dumps(document))
    return means


@pytest.mark.parametrize("files", ["safetensors", "bin_sharded"])
@pytest.mark.parametrize("name", MODELS)
def test_weights_are_read_exactly(tmp_path: Path, name: str, files: Files) -> None:
    means = awq_checkpoint(tmp_path / "in", MODELS[name], files, nested=files == "safetensors")
    found = stored(open_bundle(export(tmp_path / "in", tmp_path / "out", weights="fp32", progress=False)))
    layer = "language_model.model.layers.1."
    if name == "internlm2":
        groups = means[f"{layer}attention.wqkv.weight"].reshape(2, 4, 32, 128)
        parts = groups[:, :2], groups[:, 2], groups[:, 3]
        qkv = np.concatenate([part.reshape(-1, 128) for part in parts])
        gate_up = np.concatenate([means[f"{layer}feed_forward.w{n}.weight"] for n in (1, 3)])
        down = means[f"{layer}feed_forward.w2.weight"]
    elif name == "phi3":
        qkv, gate_up = (means[f"{layer}{n}.weight"] for n in ("self_attn.qkv_proj", "mlp.gate_up_proj"))
        down = means[f"{layer}mlp.down_proj.weight"]
    else:
        qkv = np.concatenate([means[f"{layer}self_attn.{n}_proj.weight"] for n in "qkv"])
        gate_up = np.concatenate([means[f"{layer}mlp.{n}_proj.weight"] for n in ("gate", "up")])
        down = means[f"{layer}mlp.down_proj.weight"]
    np.testing.assert_array_equal(found["llm.layers.1.qkv.weight"], qkv)
    np.testing.assert_array_equal(found["llm.layers.1.gate_up.weight"], gate_up)
    np.testing.assert_array_equal(found["llm.layers.1.down.weight"], down)


@pytest.mark.parametrize("settings", [{"quant_method": "AWQ"}, {"version": "GEMM"}, {"version": None}])
def test_names_in_capitals_and_left_out(tmp_path: Path, settings: dict[str, Any]) -> None:
    awq_checkpoint(tmp_path / "plain", QWEN2)
    awq_checkpoint(tmp_path / "other", QWEN2, **settings)
    plain, other = (
        open_bundle(export(tmp_path / name, tmp_path / f"{name}-out", progress=False)).manifest
        for name in ("plain", "other")
    )
    assert other.precision.llm == "int4"
    assert other.files["weights.safetensors"] == plain.files["weights.safetensors"]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("value", [None, {}, {"quant_method": None, "bits": None}])
def test_a_configuration_of_no_quantisation(tmp_path: Path, value: object, nested: bool) -> None:
    write_checkpoint(tmp_path / "in", QWEN2)
    path = tmp_path / "in" / "config.json"
    document = json.loads(path.read_text())
    (document["llm_config"] if nested else document)["quantization_config"] = value
    path.write_text(json.dumps(document))
    assert open_bundle(export(tmp_path / "in", tmp_path / "out")).manifest.precision.llm == "bf16"


def test_int4_keeps_every_block_that_it_can(tmp_path: Path) -> None:
    """Four blocks of 32 share a group's scale and zero point; those in range stay the same integers."""
    means = awq_checkpoint(tmp_path / "in", QWEN2)
    found = stored(open_bundle(export(tmp_path / "in", tmp_path / "out", weights="int4", progress=False)))
    name = "llm.layers.0.down.weight"
    wanted = means["language_model.model.layers.0.mlp.down_proj.weight"].reshape(-1, 32)
    values = dequantise_int4(found[name], found[f"{name}.scales"]).reshape(-1, 32)
    scales = found[f"{name}.scales"].astype(np.float32).reshape(-1)

    tensors = load_file(tmp_path / "in" / "model.safetensors")
    written = tensors["language_model.model.layers.0.mlp.down_proj.scales"].numpy().T  # [n, groups]
    of_awq = np.repeat(written.astype(np.float32), 4, axis=1).reshape(-1)
    steps = np.rint(wanted / of_awq[:, None])
    fits = (steps.min(1) >= -8) & (steps.max(1) <= 7)
    assert 0.5 < fits.mean() < 0.99
    np.testing.assert_array_equal(values[fits], wanted[fits])
    np.testing.assert_array_equal(scales[fits], of_awq[fits])
    np.testing.assert_array_equal(unpack_int4(found[name]).reshape(-1, 32)[fits], steps[fits])

    error = ((values - wanted) ** 2).sum(1)
    clipped = ((np.clip(steps, -8, 7) * of_awq[:, None] - wanted) ** 2).sum(1)
    assert (error[~fits] <= clipped[~fits] * (1 + 1e-5)).all()
    assert np.sqrt(error.sum() / (wanted**2).sum()) < 0.04


def test_int4_is_chosen_where_nothing_else_is(tmp_path: Path) -> None:
    awq_checkpoint(tmp_path / "in", QWEN2)
    told: list[str] = []
    chosen = export(tmp_path / "in", tmp_path / "out", on_choice=told.append, progress=False)
    asked = export(tmp_path / "in", tmp_path / "asked", weights="int4", on_choice=told.append, progress=False)
    assert (chosen / "weights.safetensors").read_bytes() == (asked / "weights.safetensors").read_bytes()
    assert len(told) == 1
    assert "is an AWQ checkpoint: its language model becomes int4" in told[0]
    other = export(tmp_path / "in", tmp_path / "bf16", weights="bf16", on_choice=told.append, progress=False)
    assert open_bundle(other).manifest.precision.llm == "bf16"
    write_checkpoint(tmp_path / "plain", QWEN2)
    plain = export(tmp_path / "plain", tmp_path / "plain_out", on_choice=told.append, progress=False)
    assert open_bundle(plain).manifest.precision.llm == "bf16"
    assert len(told) == 1


def test_groups_that_are_no_blocks_are_rounded_again(tmp_path: Path) -> None:
    means = awq_checkpoint(tmp_path / "in", QWEN2, group=16)
    found = stored(open_bundle(export(tmp_path / "in", tmp_path / "out", weights="int4", progress=False)))
    name = "llm.layers.0.down.weight"
    wanted = means["language_model.model.layers.0.mlp.down_proj.weight"]
    error = dequantise_int4(found[name], found[f"{name}.scales"]) - wanted
    assert np.sqrt((error**2).sum() / (wanted**2).sum()) < 0.1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"bits": 8}, "bits is 8"),
        ({"version": "gemv"}, "version is 'gemv'"),
        ({"group_size": 64}, r"qzeros.*it must be"),
        ({"group_size": 96}, "multiple of that"),
        ({"group_size": 0}, "multiple of that"),
        ({"quant_method": "gptq"}, "gptq"),
    ],
)
def test_layouts_that_are_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    awq_checkpoint(tmp_path / "in", QWEN2, **config)
    with pytest.raises(CheckpointError, match=message):
        export(tmp_path / "in", tmp_path / "out")


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    awq_checkpoint(tmp_path / "in", QWEN2)
    path = tmp_path / "in" / "model.safetensors"
    tensors = load_file(path)
    del tensors["language_model.model.layers.1.self_attn.o_proj.qzeros"]
    save_weights(tmp_path / "in", tensors, "safetensors")
    with pytest.raises(CheckpointError, match=r"layers\.1\.self_attn\.o_proj\.qzeros' is missing"):
        export(tmp_path / "in", tmp_path / "out")
