"""Bundles that are truncated, altered or of another kind: `load` says which file, and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import internvl_rt as ivl
from internvl_rt import BundleError

Damage = Callable[[Path], object]


def edit_manifest(change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "manifest.json"
        document = json.loads(path.read_bytes())
        change(document)
        path.write_text(json.dumps(document))

    return damage


def truncate(name: str, keep: float) -> Damage:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * keep)])

    return damage


def edit_header(change: Callable[[dict[str, Any]], object]) -> Damage:
    """Changes the header of the weights; the file keeps its length."""

    def damage(folder: Path) -> None:
        path = folder / "weights.safetensors"
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        change(header)
        text = json.dumps(header, separators=(",", ":")).encode()
        assert len(text) <= length
        path.write_bytes(content[:8] + text.ljust(length) + content[8 + length :])

    return damage


def flip(name: str, position: int) -> Damage:
    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[position] ^= 1
        (folder / name).write_bytes(content)

    return damage


def put(document: dict[str, Any], *keys: str, value: Any) -> None:
    for key in keys[:-1]:
        document = document[key]
    document[keys[-1]] = value


Q = "llm.layers.0.qkv.weight"

DAMAGES: dict[str, Damage] = {
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "an empty manifest": lambda folder: (folder / "manifest.json").write_bytes(b""),
    "a truncated manifest": truncate("manifest.json", 0.5),
    "a manifest that is a list": lambda folder: (folder / "manifest.json").write_text("[]"),
    "a manifest of another program": lambda folder: (folder / "manifest.json").write_text('{"a": 1}'),
    "a future version": edit_manifest(lambda m: put(m, "format_version", value=99)),
    "no layers": edit_manifest(lambda m: put(m, "llm", "layers", value=0)),
    "layers as text": edit_manifest(lambda m: put(m, "llm", "layers", value="2")),
    "a billion layers": edit_manifest(lambda m: put(m, "llm", "layers", value=10**9)),
    "another hidden size": edit_manifest(lambda m: put(m, "llm", "hidden_size", value=128)),
    "another head size": edit_manifest(lambda m: put(m, "llm", "head_dim", value=8)),
    "another tile size": edit_manifest(lambda m: put(m, "tiling", "tile_size", value=112)),
    "a tile of no pixels": edit_manifest(lambda m: put(m, "tiling", "tile_size", value=0)),
    "a deviation of zero": edit_manifest(lambda m: put(m, "tiling", "std", value=[0, 1, 1])),
    "an unknown template": edit_manifest(lambda m: put(m, "prompt", "template", value="vicuna")),
    "another image token": edit_manifest(lambda m: put(m, "prompt", "image_context_id", value=5)),
    "a stop id beyond the vocabulary": edit_manifest(lambda m: put(m, "prompt", "stop_ids", value=[10**6])),
    "an unknown field": edit_manifest(lambda m: put(m, "surprise", value=1)),
    "a missing field": edit_manifest(lambda m: m.pop("vision")),
    "a file outside": edit_manifest(lambda m: put(m, "files", "../x", value={"bytes": 1, "sha256": ""})),
    "no weights listed": edit_manifest(lambda m: m["files"].pop("weights.safetensors")),
    "no weights": lambda folder: (folder / "weights.safetensors").unlink(),
    "truncated weights": truncate("weights.safetensors", 0.9),
    "weights cut in the header": truncate("weights.safetensors", 0.001),
    "empty weights": truncate("weights.safetensors", 0),
    "a missing tensor": edit_header(lambda h: h.pop(Q)),
    "a tensor of another shape": edit_header(lambda h: put(h, Q, "shape", value=[64, 128])),
    "a tensor of another type": edit_header(lambda h: put(h, Q, "dtype", value="I8")),
    "a tensor outside of the file": edit_header(lambda h: put(h, Q, "data_offsets", value=[0, 10**12])),
    "a tensor that ends before it begins": edit_header(lambda h: put(h, Q, "data_offsets", value=[9, 1])),
    "a header longer than the file": lambda folder: _overwrite(folder, b"\xff" * 8),
    "a header that is not JSON": lambda folder: _overwrite(folder, b"{" * 64, 8),
    "a missing graph": lambda folder: (folder / "llm.onnx").unlink(),
    "a truncated graph": truncate("vit.onnx", 0.5),
    "an altered graph": flip("projector.onnx", 200),
    "a missing tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
    "a truncated tokenizer": truncate("tokenizer.json", 0.5),
    "an altered tokenizer": flip("tokenizer.json", 500),
}


def _overwrite(folder: Path, content: bytes, position: int = 0) -> None:
    with (folder / "weights.safetensors").open("r+b") as file:
        file.seek(position)
        file.write(content)


@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_bundle(tiny_bundle: Path, tmp_path: Path, name: str, engine: str) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    DAMAGES[name](folder)
    with pytest.raises(BundleError) as caught:
        ivl.load(folder, engine=engine)
    message = str(caught.value)
    assert str(folder) in message
    assert "xport" in message, "it says how to get a whole one"


def test_altered_weights_are_found_by_verify(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    flip("weights.safetensors", (folder / "weights.safetensors").stat().st_size // 2)(folder)
    with pytest.raises(BundleError, match="SHA-256"):
        ivl.load(folder, verify=True)


@pytest.mark.parametrize("path", ["", "/nowhere/at/all", "/dev/null", "\0", "x" * 5000])
def test_what_is_no_folder(path: str) -> None:
    with pytest.raises(BundleError):
        ivl.load(path)


def test_a_tokenizer_without_the_templates_tokens(tiny_bundle: Path, tmp_path: Path) -> None:
    """Files that agree with the manifest's hashes and not with each other."""
    from internvl_rt.export.writer import file_entry

    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    path = folder / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace("<|im_end|>", "<|im_fin|>"), encoding="utf-8")
    entry = file_entry(path)
    edit_manifest(
        lambda m: put(m, "files", "tokenizer.json", value={"bytes": entry.bytes, "sha256": entry.sha256})
    )(folder)
    with pytest.raises(BundleError, match=r"im_end.*Export the bundle again"):
        ivl.load(folder)


def test_a_failed_load_leaves_nothing_behind(tiny_bundle: Path, tmp_path: Path) -> None:
    """The file is closed and unmapped: a thousand failures do not run out of file descriptors."""
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    edit_manifest(lambda m: put(m, "prompt", "template", value="vicuna"))(folder)
    fds = Path("/proc/self/fd")
    if not fds.is_dir():
        pytest.skip("needs /proc")
    for attempt in range(12):
        with pytest.raises(BundleError):
            ivl.load(folder)
        if attempt == 1:
            before = len(list(fds.iterdir()))
    assert len(list(fds.iterdir())) <= before
