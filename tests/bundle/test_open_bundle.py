"""Opening bundles: what is right opens, and everything that is not is a BundleError that says where."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import internvl_rt as ivl
from bundle.tiny import tiny_manifest, write_tiny
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.bundle.manifest import MANIFEST_FILE, WEIGHTS_FILE
from internvl_rt.errors import BundleError
from unprivileged import unprivileged


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "bundle")


@pytest.mark.parametrize("weights", ["fp32", "fp16", "bf16", "int8", "int4"])
def test_a_bundle_of_every_precision_opens(tmp_path: Path, weights: str) -> None:
    opened = open_bundle(write_tiny(tmp_path / "bundle", weights), verify=True)
    assert dataclasses.replace(opened.manifest, files={}) == tiny_manifest(weights)
    for place in opened.places.values():
        size = place.end - place.begin
        assert place.begin % (64 if size % 64 == 0 else 4) == 0 or size % 4


def test_another_reader_reads_the_same_tensors(bundle: Path) -> None:
    opened = open_bundle(bundle)
    data = np.fromfile(opened.weights, np.uint8)
    tensors = load_file(opened.weights)
    assert set(tensors) == set(opened.places)
    for name, place in opened.places.items():
        assert tensors[name].shape == place.tensor.shape
        assert tensors[name].tobytes() == data[place.begin : place.end].tobytes()


def test_altered_weights_are_found_when_verified(bundle: Path) -> None:
    path = bundle / WEIGHTS_FILE
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    open_bundle(bundle)
    with pytest.raises(BundleError, match=r"weights\.safetensors.*SHA-256"):
        open_bundle(bundle, verify=True)


def test_truncated_weights(bundle: Path) -> None:
    path = bundle / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(BundleError, match="truncated"):
        open_bundle(bundle)


def test_missing_folder_and_missing_files(tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"test_open_bundle.py: is not a folder. Make a bundle"):
        open_bundle(__file__)
    with pytest.raises(BundleError, match="no such folder"):
        open_bundle(tmp_path / "nothing")
    (bundle / WEIGHTS_FILE).unlink()
    with pytest.raises(BundleError, match="not there"):
        open_bundle(bundle)
    (bundle / MANIFEST_FILE).unlink()
    with pytest.raises(BundleError, match="not a bundle"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", [".", MANIFEST_FILE, WEIGHTS_FILE, "tokenizer.json"])
def test_without_permission(bundle: Path, name: str) -> None:
    """Another export would not help, and is not asked for."""
    ivl.load(bundle).close()
    (bundle / name).chmod(0)
    try:
        with unprivileged(bundle.parent), pytest.raises(BundleError) as caught:
            ivl.load(bundle)
    finally:
        (bundle / name).chmod(0o700)
    message = str(caught.value)
    assert str(bundle / name) in message
    assert "Permission denied" in message
    assert "no permission: `ls -ld`" in message
    assert "xport" not in message


def test_what_the_system_refuses(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"x\.\.\.: .*name too long.*shorter") as caught:
        ivl.load(tmp_path / ("x" * 5000))
    assert len(str(caught.value)) < 600
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(BundleError, match="loop"):
        ivl.load(tmp_path / "loop")


@pytest.mark.parametrize("path", [None, 5, b"folder", ["folder"], "\0", "\ud800", "tiny\0"])
def test_what_names_no_folder(path: Any) -> None:
    with pytest.raises(BundleError, match="path of its folder"):
        open_bundle(path)


def test_a_path_that_is_not_utf8(bundle: Path, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path / "b") + b"\xff"))
    shutil.copytree(bundle, folder)
    ivl.load(folder).close()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match="not there") as caught:
        ivl.load(folder)
    assert str(folder) in str(caught.value)
    (folder / WEIGHTS_FILE).chmod(0)
    with unprivileged(folder), pytest.raises(BundleError, match="Permission denied") as caught:
        open_bundle(folder)
    assert str(folder / WEIGHTS_FILE) in str(caught.value)


@pytest.mark.parametrize("name", [MANIFEST_FILE, WEIGHTS_FILE, "tokenizer.json"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    os.mkfifo(bundle / name)
    with pytest.raises(BundleError, match=r"not a bundle|not there"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format", "other", "not the manifest"),
        ("format_version", 99, "version '99'"),
        ("vision.heads", 3, r"vision\.hidden_size"),
        ("vision.heads", 0, r"vision\.heads"),
        ("vision.layers", 10**9, r"vision\.layers"),
        ("vision.patch_size", 15, r"vision\.image_size"),
        ("vision.norm_eps", True, "norm_eps"),
        ("vision.norm_eps", float(10**300) * 10, "norm_eps"),
        ("projector.downsample", 3, r"projector\.downsample"),
        ("projector.downsample", 0, r"projector\.downsample"),
        ("llm.kv_heads", 3, r"llm\.heads"),
        ("llm.head_dim", 15, r"llm\.head_dim"),
        ("llm.vocab_size", -1, r"llm\.vocab_size"),
        ("llm.vocab_size", 10**12, r"llm\.vocab_size"),
        ("vision.hidden_size", 10**400, r"vision\.hidden_size"),
        ("llm.layers", 3, "layers"),
        ("llm.hidden_size", True, "hidden_size"),
        ("llm.hidden_size", "64", "hidden_size"),
        ("llm.rope.theta", 0, r"rope\.theta"),
        ("llm.rope.scaling", "yarn", "scaling"),
        ("llm.rope.short_factor", [1.0, 2.0], r"short_factor.*2 numbers.*must be 8"),
        ("llm.rope.short_factor", [0.0] * 8, r"short_factor\[0\]"),
        ("llm.rope.long_factor", [1.0] * 8, "original_max_position_embeddings"),
        ("llm.rope.original_max_position_embeddings", 64, "original_max_position_embeddings"),
        ("llm.rope.attention_factor", 0, "attention_factor"),
        ("llm.experts", {"count": 4, "chosen": 5, "normalise": True}, r"experts\.chosen"),
        ("llm.experts", {"count": 4, "chosen": 2, "normalise": True}, r"router\.weight"),
        (
            "flash",
            {"downsample": 3, "heads": 4, "relative_threshold": 0.5, "absolute_threshold": 0.5},
            r"flash\.downsample",
        ),
        (
            "flash",
            {"downsample": 4, "heads": 4, "relative_threshold": 0.5, "absolute_threshold": 0.5},
            r"flash\.query",
        ),
        ("prompt.image_context_id", 331, "image_context_id"),
        ("prompt.stop_ids", [], "stop_ids"),
        ("prompt.stop_ids", [5, 400], r"stop_ids\[1\]"),
        ("prompt.prefix_ids", [5, 400], r"prefix_ids\[1\]"),
        ("prompt.prefix_ids", [5] * 65, "prefix_ids"),
        ("prompt.task_ids", [-1], r"task_ids\[0\]"),
        ("prompt.task_ids", "5", "task_ids"),
        ("prompt.clean_up_spaces", 1, "clean_up_spaces"),
        ("prompt.bos_id", -1, "bos_id"),
        ("prompt.system_message", "\ud800", "system_message"),
        ("tiling.max_tiles", 0, "max_tiles"),
        ("tiling.tile_size", 448, "tile_size"),
        ("precision.llm", "int3", "llm"),
        ("precision.embedding", "int8", r"precision\.embedding"),
        ("precision.llm", "bf16", "BF16"),
        ("files", {}, "does not list"),
        ("surprise", 1, "surprise"),
    ],
)
def test_manifest_values_out_of_range(bundle: Path, field: str, value: object, message: str) -> None:
    path = bundle / MANIFEST_FILE
    document = json.loads(path.read_text())
    *parents, last = field.split(".")
    inner = document
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    path.write_text(json.dumps(document))
    with pytest.raises(BundleError, match=message):
        open_bundle(bundle)


def test_int4_needs_columns_in_blocks_of_32(bundle: Path) -> None:
    path = bundle / MANIFEST_FILE
    document = json.loads(path.read_text())
    document["precision"]["llm"] = "int4"
    document["llm"]["intermediate_size"] = 90
    path.write_text(json.dumps(document))
    with pytest.raises(BundleError, match=r"precision\.llm.*90 columns"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "vit.onnx.exe", ""])
def test_files_that_no_bundle_has(bundle: Path, name: str) -> None:
    path = bundle / MANIFEST_FILE
    document = json.loads(path.read_text())
    document["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    path.write_text(json.dumps(document))
    with pytest.raises(BundleError, match="unknown file"):
        open_bundle(bundle)
