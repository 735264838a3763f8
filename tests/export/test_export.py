"""Checkpoints of every format become the right bundle."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from export.checkpoints import (
    LAYOUTS,
    TINY_6B,
    TINY_INTERNLM2,
    TINY_LLAMA,
    TINY_PHI3,
    TINY_QWEN2,
    TINY_QWEN3,
    Array,
    Files,
    Layout,
    Model,
    write_checkpoint,
)
from internvl_rt.bundle.bundle import Bundle, open_bundle
from internvl_rt.bundle.graph_sets import GRAPH_SETS
from internvl_rt.bundle.manifest import IMAGENET_MEAN, IMAGENET_STD, Tiling
from internvl_rt.errors import CheckpointError
from internvl_rt.export.exporter import export

MODELS = {
    "qwen2": TINY_QWEN2,
    "internlm2": TINY_INTERNLM2,
    "llama": TINY_LLAMA,
    "qwen3": TINY_QWEN3,
    # transformers' own checkpoints have one template, whose tokens Phi-3's tokenizer lacks.
    "phi3": dataclasses.replace(TINY_PHI3, tokenizer="qwen2_5", template="internvl2_5"),
    "6b": TINY_6B,
}
NUMPY = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "int8": np.int8}


def stored(bundle: Bundle) -> dict[str, npt.NDArray[Any]]:
    """The tensors of a bundle as they are stored; int4 as packed bytes."""
    data = np.fromfile(bundle.weights, np.uint8)
    result = {}
    for name, place in bundle.places.items():
        raw = data[place.begin : place.end]
        if place.tensor.dtype == "int4":
            result[name] = raw.reshape(*place.tensor.shape[:-1], -1)
        else:
            result[name] = raw.view(NUMPY[place.tensor.dtype]).reshape(place.tensor.shape)
    return result


def expected(model: Model, w: dict[str, Array]) -> dict[str, Array]:
    """The bundle's tensors, written down from the meaning of its names."""
    out = {
        "vit.class_embedding": w["vision.class"][0, 0],
        "vit.position_embedding": w["vision.position"][0],
        "llm.embed_tokens.weight": w["llm.embed.weight"],
        "llm.norm.weight": w["llm.norm.weight"],
        "llm.lm_head.weight": w["llm.head.weight"],
    }
    for p in ("weight", "bias"):
        out[f"vit.patch_embedding.{p}"] = w[f"vision.patch.{p}"]
        for name in ("norm", "fc1", "fc2"):
            out[f"projector.{name}.{p}"] = w[f"projector.{name}.{p}"]

    def copy(to: str, of: str, *parts: str) -> None:
        for p in ("weight", "bias"):
            if f"{of}.{parts[0]}.{p}" in w:
                out[f"{to}.{p}"] = np.concatenate([w[f"{of}.{part}.{p}"] for part in parts])

    for i in range(model.vision_layers):
        to, of = f"vit.layers.{i}", f"vision.{i}"
        for name in ("norm1", "norm2", "q_norm", "k_norm", "proj", "fc1", "fc2"):
            copy(f"{to}.{name}", of, name)
        copy(f"{to}.qkv", of, "q", "k", "v")
        out[f"{to}.ls1"], out[f"{to}.ls2"] = w[f"{of}.ls1"], w[f"{of}.ls2"]
    for i in range(model.layers):
        to, of = f"llm.layers.{i}", f"llm.{i}"
        copy(f"{to}.attention_norm", of, "norm1")
        copy(f"{to}.mlp_norm", of, "norm2")
        copy(f"{to}.qkv", of, "q", "k", "v")
        copy(f"{to}.q_norm", of, "q_norm")
        copy(f"{to}.k_norm", of, "k_norm")
        copy(f"{to}.o_proj", of, "o")
        copy(f"{to}.gate_up", of, "gate", "up")
        copy(f"{to}.down", of, "down")
    return out


def assert_same(found: dict[str, npt.NDArray[Any]], wanted: dict[str, Array]) -> None:
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_in_every_layout(tmp_path: Path, name: str, layout: Layout) -> None:
    model = MODELS[name]
    weights = write_checkpoint(tmp_path / "in", model, layout=layout)
    bundle = open_bundle(export(tmp_path / "in", tmp_path / "out", weights="fp32"), verify=True)
    assert_same(stored(bundle), expected(model, weights))
    facts = bundle.manifest
    assert facts.source_format == ("internvl_chat" if layout == "authors" else "internvl")
    assert (facts.vision.hidden_size, facts.vision.layers, facts.vision.heads) == (64, 2, model.vision_heads)
    assert facts.vision.norm == ("rms_norm" if model.vision_6b else "layer_norm")
    assert (facts.vision.qk_norm, facts.vision.qkv_bias) == (model.vision_6b, not model.vision_6b)
    assert facts.llm.head_dim == model.head_dim
    assert facts.llm.qk_norm == (model.language == "qwen3")
    assert facts.llm.qkv_bias == (model.language == "qwen2")
    assert facts.llm.norm_eps == model.eps
    assert facts.llm.rope.theta == model.theta
    assert facts.llm.rope.scaling == ("none" if model.dynamic_factor is None else "dynamic")
    assert facts.llm.rope.factor == (model.dynamic_factor or 1.0)
    assert facts.llm.rope.max_position_embeddings == 512
    assert not facts.llm.tied_embeddings
    assert (facts.tiling.max_tiles, facts.tiling.thumbnail, facts.tiling.dynamic) == (12, True, True)
    assert (facts.prompt.bos_id is not None) == (model.tokenizer == "internlm2")
    assert facts.prompt.template == (model.template if layout == "authors" else "internvl-hf")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("files", ["safetensors_sharded", "bin", "bin_sharded"])
def test_every_kind_of_file(tmp_path: Path, files: Files, layout: Layout) -> None:
    weights = write_checkpoint(tmp_path / "in", TINY_INTERNLM2, layout=layout, files=files)
    bundle = open_bundle(export(tmp_path / "in", tmp_path / "out", weights="fp32"))
    assert_same(stored(bundle), expected(TINY_INTERNLM2, weights))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("files", ["safetensors", "bin"])
def test_half_precision_checkpoints_are_widened_exactly(tmp_path: Path, files: Files, dtype: str) -> None:
    weights = write_checkpoint(tmp_path / "in", TINY_QWEN2, files=files, dtype=dtype)
    bundle = open_bundle(export(tmp_path / "in", tmp_path / "out", weights="fp32"))
    assert_same(stored(bundle), expected(TINY_QWEN2, weights))


@pytest.mark.parametrize("weights", ["fp32", "fp16", "bf16", "int8", "int4"])
def test_both_formats_become_the_same_bundle(tmp_path: Path, weights: str) -> None:
    bundles = []
    for layout in LAYOUTS:
        write_checkpoint(tmp_path / layout, TINY_INTERNLM2, layout=layout, dtype="bfloat16")
        out = export(tmp_path / layout, tmp_path / f"{layout}-out", weights=weights)
        bundles.append(open_bundle(out))
    first = bundles[0]
    for other in bundles[1:]:
        assert first.manifest.files["weights.safetensors"] == other.manifest.files["weights.safetensors"]
        assert first.manifest.vision == other.manifest.vision
        assert dataclasses.replace(first.manifest.llm, architecture="") == dataclasses.replace(
            other.manifest.llm, architecture=""
        )


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
def test_pieces_of_one_tensor_in_different_types(tmp_path: Path, weights: str) -> None:
    """A merge part by part leaves some biases in bfloat16, some in float16; NumPy has no type for both."""
    write_checkpoint(tmp_path / "wide", TINY_QWEN2)
    tensors = load_file(tmp_path / "wide" / "model.safetensors")
    types = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
    mixed = {name: tensor.to(types[i % 4]) for i, (name, tensor) in enumerate(sorted(tensors.items()))}
    assert len({mixed[f"language_model.model.layers.0.self_attn.{n}_proj.bias"].dtype for n in "qkv"}) > 1
    write_checkpoint(tmp_path / "mixed", TINY_QWEN2)
    save_file(mixed, tmp_path / "mixed" / "model.safetensors")
    save_file({n: t.float() for n, t in mixed.items()}, tmp_path / "wide" / "model.safetensors")
    found, wanted = (
        stored(open_bundle(export(tmp_path / name, tmp_path / f"{name}-out", weights=weights)))
        for name in ("mixed", "wide")
    )
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


MATRIX, VECTOR = "language_model.model.layers.1.mlp.up_proj.weight", "mlp1.0.bias"


@pytest.mark.parametrize("weights", ["fp32", "fp16", "bf16", "int8", "int4"])
@pytest.mark.parametrize("name", [MATRIX, VECTOR])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_weights_that_are_not_finite(tmp_path: Path, value: str, name: str, weights: str) -> None:
    write_checkpoint(tmp_path / "in", TINY_QWEN2)
    path = tmp_path / "in" / "model.safetensors"
    tensors = load_file(path)
    tensors[name].reshape(-1)[5] = float(value)
    save_file(tensors, path)
    what = "not numbers .NaN." if value == "nan" else "infinite"
    with pytest.raises(CheckpointError, match=rf"safetensors: tensor '{name}': 1 of the \d+ .* are {what}"):
        export(tmp_path / "in", tmp_path / "out", weights=weights)
    assert [f.name for f in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("value", "dtype", "weights", "message"),
    [
        (
            1e5,
            torch.bfloat16,
            "fp16",
            r"largest magnitude is 99840; float16 ends at 65504\. Export with bf16",
        ),
        (
            1e5,
            torch.float32,
            "fp16",
            r"largest magnitude is 100000; float16 ends at 65504\. Export with bf16",
        ),
        (3.4e38, torch.float32, "bf16", r"3\.4e\+38; bfloat16 ends at 3\.38953e\+38\. Export with fp32"),
        (1e60, torch.float64, "fp32", r"1e\+60; float32 ends at 3\.40282e\+38"),
        (1e60, torch.float64, "int8", r"1e\+60; float32 ends at 3\.40282e\+38"),
    ],
)
def test_weights_that_are_too_large_for_the_precision(
    tmp_path: Path, value: float, dtype: torch.dtype, weights: str, message: str
) -> None:
    """They are finite in the checkpoint, and the message does not say otherwise."""
    write_checkpoint(tmp_path / "in", TINY_QWEN2)
    path = tmp_path / "in" / "model.safetensors"
    tensors = load_file(path)
    tensors[MATRIX].reshape(-1)[5] = 0
    tensors[MATRIX] = tensors[MATRIX].to(dtype)
    tensors[MATRIX].reshape(-1)[5] = value
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        export(tmp_path / "in", tmp_path / "out", weights=weights)
    assert MATRIX in str(caught.value)
    assert "NaN" not in str(caught.value)
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("through_a_link", [False, True])
def test_the_name_of_a_snapshot_in_the_hubs_cache(tmp_path: Path, through_a_link: bool) -> None:
    """Its folder is named by a commit, and its files are links to blobs."""
    repository = tmp_path / "hub" / "models--someone--Some.VL-1B"
    snapshot = repository / "snapshots" / ("01234567" * 5)
    write_checkpoint(snapshot, TINY_QWEN2)
    (repository / "blobs").mkdir()
    for i, file in enumerate(sorted(snapshot.iterdir())):
        file.rename(repository / "blobs" / f"{i:064x}")
        file.symlink_to(f"../../blobs/{i:064x}")
    if through_a_link:
        (tmp_path / "short").symlink_to(snapshot)
        snapshot = tmp_path / "short"
    assert open_bundle(export(snapshot, tmp_path / "out")).manifest.name == "Some.VL-1B"


def test_tied_embeddings_are_found_by_the_missing_tensor(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path / "in", TINY_QWEN2, tied=True)
    bundle = open_bundle(export(tmp_path / "in", tmp_path / "out", weights="fp32"))
    assert bundle.manifest.llm.tied_embeddings
    assert "llm.lm_head.weight" not in bundle.places
    quantised = open_bundle(export(tmp_path / "in", tmp_path / "int8", weights="int8"))
    head = stored(quantised)["llm.lm_head.weight"].astype(np.float32)
    head *= stored(quantised)["llm.lm_head.weight.scales"][:, None]
    np.testing.assert_allclose(head, weights["llm.embed.weight"], atol=0.02)


def test_names_of_precisions(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "in", TINY_QWEN2)
    with pytest.raises(CheckpointError, match="int3"):
        export(tmp_path / "in", tmp_path / "out", weights="int3")
    with pytest.raises(CheckpointError, match=r"vision.*4-bit"):
        export(tmp_path / "in", tmp_path / "out", vision="int4")
    with pytest.raises(CheckpointError, match="onnx24"):
        export(tmp_path / "in", tmp_path / "out", dialect="onnx9")
    assert not (tmp_path / "out").exists()


def test_several_dialects_share_the_weights(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "in", TINY_QWEN2)
    one = open_bundle(export(tmp_path / "in", tmp_path / "one"))
    all_of_them = open_bundle(export(tmp_path / "in", tmp_path / "all", dialect=list(GRAPH_SETS)))
    assert [graphs.name for graphs in one.manifest.graph_sets] == ["onnx24"]
    assert [graphs.name for graphs in all_of_them.manifest.graph_sets] == list(GRAPH_SETS)
    assert all_of_them.manifest.files["weights.safetensors"] == one.manifest.files["weights.safetensors"]
    assert all_of_them.manifest.files["llm.onnx"] == one.manifest.files["llm.onnx"]


def test_vision_precision_is_chosen_apart(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "in", TINY_QWEN2)
    bundle = open_bundle(export(tmp_path / "in", tmp_path / "out", weights="int4", vision="int8"))
    precision = bundle.manifest.precision
    assert (precision.vit, precision.projector, precision.llm, precision.embedding) == (
        "int8",
        "bf16",
        "int4",
        "bf16",
    )


@pytest.mark.parametrize("weights", ["fp32", "int4"])
def test_exporting_twice_gives_the_same_bytes(tmp_path: Path, weights: str) -> None:
    write_checkpoint(tmp_path / "in", TINY_QWEN2)
    first = export(tmp_path / "in", tmp_path / "one", weights=weights)
    second = export(tmp_path / "in", tmp_path / "two", weights=weights)
    assert sorted(f.name for f in first.iterdir()) == sorted(f.name for f in second.iterdir())
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes(), file.name


def test_another_image_size_interpolates_the_positions(tmp_path: Path) -> None:
    changes = {"force_image_size": 112}
    weights = write_checkpoint(tmp_path / "in", TINY_QWEN2, config_changes=changes)
    bundle = open_bundle(export(tmp_path / "in", tmp_path / "out", weights="fp32"))
    assert bundle.manifest.vision.image_size == bundle.manifest.tiling.tile_size == 112
    positions = stored(bundle)["vit.position_embedding"]
    assert positions.shape == (65, 64)
    np.testing.assert_array_equal(positions[0], weights["vision.position"][0, 0])


def edit(folder: Path, *path: str, value: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    inner = config
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        inner.pop(path[-1], None)
    else:
        inner[path[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("model_type",), "llava", "'llava'.*internvl_chat"),
        (("llm_config", "architectures"), ["PhiForCausalLM"], "PhiForCausalLM.*InternLM2ForCausalLM"),
        (("llm_config", "architectures"), ["GptOssForCausalLM"], "GptOssForCausalLM.*gpt-oss.*out of scope"),
        (("flash_mode",), True, "flash_relative_threshold is missing"),
        (("llm_config",), ..., "llm_config is missing"),
        (("vision_config",), 3, "vision_config is 3"),
        (("template",), ..., "template is missing"),
        (("template",), "no-such-template", "no-such-template"),
        (("select_layer",), -4, "select_layer is -4"),
        (("downsample_ratio",), 0.3, "downsample_ratio"),
        (("downsample_ratio",), 0, "downsample_ratio"),
        (("ps_version",), "v3", "ps_version"),
        (("pad2square",), True, "pad2square"),
        (("quantization_config",), {"quant_method": "gptq"}, "quantised already, by 'gptq'"),
        (("llm_config", "quantization_config"), {"bits": 8}, "quantised already"),
        (("vision_config", "hidden_act"), "relu", "hidden_act is 'relu'"),
        (("vision_config", "norm_type"), "batch_norm", "norm_type"),
        (("vision_config", "num_attention_heads"), 0, r"vision\.heads"),
        (("vision_config", "hidden_size"), 128, r"class_embedding.*\[1, 1, 64\].*\[1, 1, 128\]"),
        (("vision_config", "qkv_bias"), False, r"attn\.qkv\.bias"),
        (("vision_config", "num_hidden_layers"), 1, r"layers\.1"),
        (("vision_config", "num_hidden_layers"), 3, r"layers\.2.*missing"),
        (("llm_config", "hidden_size"), 96, r"\[64, 256\].*\[96, 256\]"),
        (("llm_config", "hidden_size"), 1e400, "Infinity"),
        (("llm_config", "hidden_size"), True, "hidden_size is True"),
        (("llm_config", "num_hidden_layers"), 10**9, r"llm\.layers"),
        (("llm_config", "num_key_value_heads"), 3, r"llm\.heads"),
        (("llm_config", "vocab_size"), 332, r"embed_tokens.*\[331, 64\].*\[332, 64\]"),
        (("llm_config", "rope_scaling"), {"type": "yarn"}, "yarn"),
        (("llm_config", "rope_scaling"), {"type": "longrope"}, "short_factor is missing.* 8 numbers"),
        (
            ("llm_config", "rope_scaling"),
            {"type": "su", "short_factor": [1.0] * 8, "long_factor": [1.0] * 7 + ["2"]},
            "long_factor is '2'",
        ),
        (
            ("llm_config", "rope_scaling"),
            {"type": "su", "short_factor": [1.0] * 8, "long_factor": [0.0] * 8},
            r"long_factor\[0\]",
        ),
        (("llm_config", "rope_scaling"), {"type": "llama3", "factor": 8.0}, "low_freq_factor is missing"),
        (("llm_config", "rope_scaling"), {"type": "dynamic"}, "factor is missing"),
        (("llm_config", "hidden_act"), "gelu", "hidden_act"),
        (("llm_config", "use_sliding_window"), True, "use_sliding_window"),
        (("force_image_size",), 450, r"vision\.image_size"),
    ],
)
def test_configurations_that_are_refused(
    tmp_path: Path, path: tuple[str, ...], value: object, message: str
) -> None:
    write_checkpoint(tmp_path / "in", TINY_QWEN2)
    edit(tmp_path / "in", *path, value=value)
    with pytest.raises(CheckpointError, match=message):
        export(tmp_path / "in", tmp_path / "out")
    assert [f.name for f in tmp_path.iterdir()] == ["in"]


def test_class_defaults_of_the_authors_format(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "in", TINY_QWEN2)
    for key in ("ps_version", "max_dynamic_patch", "use_thumbnail", "dynamic_image_size", "force_image_size"):
        edit(tmp_path / "in", key, value=...)
    manifest = open_bundle(export(tmp_path / "in", tmp_path / "out")).manifest
    assert manifest.projector.pixel_shuffle == "v1"
    assert manifest.tiling.max_tiles == 6
    assert not manifest.tiling.thumbnail
    assert not manifest.tiling.dynamic
    assert manifest.vision.image_size == 56


def test_rope_parameters_of_newer_transformers(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "in", TINY_QWEN2, layout="native_second")
    edit(tmp_path / "in", "text_config", "rope_theta", value=...)
    edit(
        tmp_path / "in",
        "text_config",
        "rope_parameters",
        value={"rope_type": "dynamic", "rope_theta": 5e5, "factor": 3.0},
    )
    rope = open_bundle(export(tmp_path / "in", tmp_path / "out")).manifest.llm.rope
    assert (rope.theta, rope.scaling, rope.factor) == (5e5, "dynamic", 3.0)


@pytest.mark.parametrize("nested", [False, True])
def test_tiling_of_native_checkpoints(tmp_path: Path, nested: bool) -> None:
    write_checkpoint(tmp_path / "in", TINY_QWEN2, layout="native_second")
    settings = {"min_patches": 2, "max_patches": 5}
    name = "processor_config.json" if nested else "preprocessor_config.json"
    (tmp_path / "in" / name).write_text(json.dumps({"image_processor": settings} if nested else settings))
    tiling = open_bundle(export(tmp_path / "in", tmp_path / "out")).manifest.tiling
    assert (tiling.min_tiles, tiling.max_tiles, tiling.thumbnail) == (2, 5, True)


def native_tiling(folder: Path, out: Path, **settings: object) -> Tiling:
    """What a native checkpoint with these settings of its image processor becomes."""
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return open_bundle(export(folder, out, overwrite=True)).manifest.tiling


def test_class_defaults_of_the_native_image_processor(tmp_path: Path) -> None:
    """The class is asked, not a table; a key that is null is missing."""
    write_checkpoint(tmp_path / "in", TINY_QWEN2, layout="native_second")
    given = {
        "min_patches": 2,
        "max_patches": 5,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.25, 0.5, 1],
    }
    fields = {
        "min_patches": "min_tiles",
        "max_patches": "max_tiles",
        "image_mean": "mean",
        "image_std": "std",
    }
    for missing, null in itertools.product(given, (False, True)):
        settings = {key: value for key, value in given.items() if key != missing}
        theirs = GotOcr2ImageProcessorPil(**settings)
        if null:
            settings[missing] = None
        tiling = native_tiling(tmp_path / "in", tmp_path / "out", **settings)
        for key, field in fields.items():
            np.testing.assert_array_equal(getattr(tiling, field), getattr(theirs, key), err_msg=key)


def test_without_a_file_of_the_image_processor_pictures_are_those_of_the_training(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "in", TINY_QWEN2, layout="native_second")
    tiling = open_bundle(export(tmp_path / "in", tmp_path / "out")).manifest.tiling
    assert (tiling.mean, tiling.std) == (IMAGENET_MEAN, IMAGENET_STD)
    (tmp_path / "in" / "processor_config.json").write_text('{"image_processor": null}')
    again = open_bundle(export(tmp_path / "in", tmp_path / "again")).manifest.tiling
    assert again == tiling


def test_settings_inside_of_the_processor_go_before_the_older_file(tmp_path: Path) -> None:
    """transformers takes them; the file of an older release may lie beside."""
    write_checkpoint(tmp_path / "in", TINY_QWEN2, layout="native_second")
    (tmp_path / "in" / "processor_config.json").write_text('{"image_processor": {"max_patches": 7}}')
    assert native_tiling(tmp_path / "in", tmp_path / "out", max_patches=3).max_tiles == 7


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("do_rescale", False, None),
        ("rescale_factor", 1, None),
        ("do_normalize", False, None),
        ("resample", 2, None),
        ("size", {"height": 384, "width": 384}, None),
        ("rescale_factor", 0.00392156862745098, True),
        ("size", {"height": 56, "width": 56}, True),
        ("size", None, True),
        ("resample", None, True),
    ],
)
def test_settings_that_change_what_the_model_sees(
    tmp_path: Path, key: str, value: object, accepted: bool | None
) -> None:
    write_checkpoint(tmp_path / "in", TINY_QWEN2, layout="native_second")
    if accepted:
        assert native_tiling(tmp_path / "in", tmp_path / "out", **{key: value}).tile_size == 56
        return
    with pytest.raises(CheckpointError, match=key if key != "size" else "size: height is 384"):
        native_tiling(tmp_path / "in", tmp_path / "out", **{key: value})


def test_one_number_is_for_all_colours(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "in", TINY_QWEN2, layout="native_second")
    tiling = native_tiling(tmp_path / "in", tmp_path / "out", image_mean=0.5, image_std=0.25)
    assert (tiling.mean, tiling.std) == ((0.5,) * 3, (0.25,) * 3)


def test_normalisation_of_native_checkpoints(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "in", TINY_QWEN2, layout="native_second")
    settings = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 1]}
    path = tmp_path / "in" / "preprocessor_config.json"
    path.write_text(json.dumps(settings))
    tiling = open_bundle(export(tmp_path / "in", tmp_path / "out")).manifest.tiling
    assert (tiling.mean, tiling.std) == ((0.5, 0.4, 0.3), (0.2, 0.25, 1.0))
    path.write_text(json.dumps({"image_mean": [0.5, "x", 0.3]}))
    with pytest.raises(CheckpointError, match="image_mean"):
        export(tmp_path / "in", tmp_path / "other")


def test_the_package_is_the_function(tmp_path: Path) -> None:
    import internvl_rt.export

    write_checkpoint(tmp_path / "in", TINY_QWEN2)
    out = internvl_rt.export(tmp_path / "in", tmp_path / "out", weights="fp32")  # type: ignore[operator]
    assert open_bundle(out).manifest.name == "in"
    assert internvl_rt.export.export is export
