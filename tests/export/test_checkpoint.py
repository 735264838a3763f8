"""Opening checkpoint folders: incomplete, mixed, truncated and altered ones are refused with the reason."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from export.checkpoints import TINY_QWEN2, Files, write_checkpoint
from internvl_rt.errors import CheckpointError
from internvl_rt.export.checkpoint import open_checkpoint
from internvl_rt.export.exporter import export
from unprivileged import unprivileged


def checkpoint(folder: Path, files: Files = "safetensors_sharded") -> Path:
    write_checkpoint(folder, TINY_QWEN2, files=files)
    return folder


def edit_index(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    (path,) = folder.glob("*.index.json")
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no such folder.*hf download"):
        open_checkpoint(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="none of these"):
        open_checkpoint(tmp_path)
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="no index file"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "name", [".", "config.json", "model-00002-of-00003.safetensors", "model.safetensors.index.json"]
)
def test_without_permission(tmp_path: Path, name: str) -> None:
    folder = checkpoint(tmp_path / "in")
    for file in folder.iterdir():
        file.chmod(0o644)
    export(folder, tmp_path / "whole")
    (folder / name).chmod(0)
    try:
        with unprivileged(tmp_path), pytest.raises(CheckpointError) as caught:
            export(folder, tmp_path / "out")
    finally:
        (folder / name).chmod(0o700)
    message = str(caught.value)
    assert str(folder / name) in message
    assert "Permission denied). This user has no permission" in message
    assert "ownload" not in message


@pytest.mark.parametrize("name", ["x" * 5000, "a/" * 3000])
def test_paths_that_are_too_long(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"\.\.\.: .*name too long.*shorter") as caught:
        export(tmp_path / name, tmp_path / "out")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1, "a": 2}', "[" * 100_000, "null", "\xff\xfe"])
def test_config_that_is_not_an_object(tmp_path: Path, text: str) -> None:
    folder = checkpoint(tmp_path / "in")
    (folder / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_checkpoint(folder)


@pytest.mark.parametrize("files", ["safetensors_sharded", "bin_sharded"])
def test_missing_shard(tmp_path: Path, files: Files) -> None:
    folder = checkpoint(tmp_path / "in", files)
    (shard,) = folder.glob("*00002-of-00003*")
    shard.unlink()
    with pytest.raises(CheckpointError, match=r"00002-of-00003.*missing \(1 of 3"):
        open_checkpoint(folder)


def test_index_that_does_not_fit(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "in")
    edit_index(folder, lambda d: d["weight_map"].update(ghost="model-00001-of-00003.safetensors"))
    with pytest.raises(CheckpointError, match=r"00001-of-00003.*lacks the tensor 'ghost'"):
        open_checkpoint(folder)


def test_index_that_names_another_shard(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "in")

    def swap(document: dict[str, Any]) -> None:
        name, file = next(iter(document["weight_map"].items()))
        other = next(f for f in document["weight_map"].values() if f != file)
        document["weight_map"][name] = other

    edit_index(folder, swap)
    with pytest.raises(CheckpointError, match="lacks the tensor"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "file_name", ["../x.safetensors", "/etc/passwd", "", ".", 3, None, "a/b.safetensors"]
)
def test_index_that_leaves_the_folder(tmp_path: Path, file_name: object) -> None:
    folder = checkpoint(tmp_path / "in")
    edit_index(folder, lambda d: d["weight_map"].update(ghost=file_name))
    with pytest.raises(CheckpointError, match="not a file name"):
        open_checkpoint(folder)


def test_index_without_a_map(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "in")
    edit_index(folder, lambda d: d.pop("weight_map"))
    with pytest.raises(CheckpointError, match="weight_map"):
        open_checkpoint(folder)


def test_tensor_in_two_shards(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "in")
    save_file({"twice": torch.ones(1)}, folder / "model-00001-of-00003.safetensors")
    save_file({"twice": torch.ones(1)}, folder / "model-00002-of-00003.safetensors")
    with pytest.raises(CheckpointError, match=r"'twice' stands in model-00001-of-00003\.safetensors too"):
        open_checkpoint(folder)


def test_git_lfs_pointers(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "in", "safetensors")
    (folder / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )
    with pytest.raises(CheckpointError, match="git lfs pull"):
        open_checkpoint(folder)


def test_quantised_tensors_are_named(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "in", "safetensors")
    save_file({"a": torch.ones(4, dtype=torch.int8)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"'a' is I8.*original"):
        open_checkpoint(folder).tensors["a"].rows()


def header(entries: object, data: bytes = b"\0" * 16, length: int | None = None) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: Any = 0, end: Any = 16, shape: Any = (4,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated"),
        (b"\0" * 7, "truncated"),
        (header({}, b"", 1 << 40), "claims"),
        (header({}, b" " * (17 << 20), 17 << 20), "more than the limit"),
        (header(b"[]"), "not a JSON object"),
        (header(b"\xff\xff"), "not JSON"),
        (header(b"[" * 200_000), "not JSON"),
        (header(b'{"a":' * 50_000), "not JSON"),
        (header(b'{"a": NaN}'), "NaN"),
        (header(b'{"a": {}, "a": {}}'), "'a' twice"),
        (header({"__metadata__": {"a": 1}}), "__metadata__"),
        (header({"a": 1}), "'a' has a header entry"),
        (header({"a": {}}), "'a' has a header entry"),
        (header({"a": entry() | {"extra": 1}}), "'a' has a header entry"),
        (header({"a": entry(dtype="F31")}), "unknown type 'F31'"),
        (header({"a": entry(dtype=["F32"])}), "unknown type"),
        (header({"a": entry(shape=4)}), "impossible shape"),
        (header({"a": entry(shape=[-4])}), "impossible shape"),
        (header({"a": entry(shape=[True, 4])}), "impossible shape"),
        (header({"a": entry(shape=[4.0])}), "impossible shape"),
        (header({"a": entry(shape=["4"])}), "impossible shape"),
        (header({"a": entry(shape=[1 << 60])}), "impossible shape"),
        (header({"a": entry(shape=[1] * 9)}), "impossible shape"),
        (header({"a": entry(shape=[1 << 47] * 8)}), "needs"),
        (header({"a": entry(begin=-16, end=0)}), "impossible data_offsets"),
        (header({"a": entry(begin=16, end=0)}), "impossible data_offsets"),
        (header({"a": entry(begin=0.0)}), "impossible data_offsets"),
        (header({"a": entry(begin=False)}), "impossible data_offsets"),
        (header({"a": entry() | {"data_offsets": [0]}}), "impossible data_offsets"),
        (header({"a": entry() | {"data_offsets": [0, 8, 16]}}), "impossible data_offsets"),
        (header({"a": entry(shape=[5])}), "16 bytes where F32 .5. needs 20"),
        (header({"a": entry(begin=4, end=20)}, b"\0" * 20), "leaves a hole after the header"),
        (header({"a": entry(), "b": entry(8, 24)}, b"\0" * 24), "'b' .* overlaps tensor 'a'"),
        (header({"a": entry(), "b": entry()}), "overlaps"),
        (header({"a": entry()}, b"\0" * 17), "end at byte"),
        (header({"a": entry()}, b"\0" * 15), "truncated"),
        (header({}, b"\0"), "end at byte"),
    ],
)
def test_safetensors_headers(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: .*{message}"):
        open_checkpoint(tmp_path)


def test_an_empty_file_is_a_checkpoint_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(header({}, b""))
    assert open_checkpoint(tmp_path).tensors == {}


def test_altered_headers_are_read_or_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    tensors = {"a": torch.randn(3, 4), "b": torch.zeros(5, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 8))):
            data[rng.randrange(len(data) - 58)] = rng.randrange(256)
        (tmp_path / "model.safetensors").write_bytes(data)
        try:
            for tensor in open_checkpoint(tmp_path).tensors.values():
                tensor.rows()
        except CheckpointError:
            refused += 1
    assert refused > 200


def test_rows_are_read_in_any_order(tmp_path: Path) -> None:
    folder = tmp_path
    (folder / "config.json").write_text("{}")
    matrix = torch.randn(2000, 7)
    save_file({"odd": torch.ones(3, dtype=torch.float16), "a": matrix}, folder / "model.safetensors")
    tensor = open_checkpoint(folder).tensors["a"]
    order = np.random.default_rng(0).permutation(2000)[:50]
    np.testing.assert_array_equal(tensor.rows(order), matrix.numpy()[order])
    np.testing.assert_array_equal(tensor.rows(slice(1990, 2000)), matrix.numpy()[1990:])
    np.testing.assert_array_equal(tensor.rows(), matrix.numpy())
    assert tensor.rows(slice(5, 5)).shape == (0, 7)
