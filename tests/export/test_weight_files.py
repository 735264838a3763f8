"""Which of several weight files is exported: the one that transformers loads, whatever lies beside it."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers.modeling_utils import _get_resolved_checkpoint_files

from export.checkpoints import TINY_QWEN2, Files, write_checkpoint
from export.test_export import edit, expected, stored
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.errors import CheckpointError
from internvl_rt.export.exporter import export

KINDS: tuple[Files, ...] = ("safetensors", "safetensors_sharded", "bin", "bin_sharded")
MARK = "llm.norm.weight"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[Files, tuple[Path, float]]:
    """A checkpoint for every kind of file, with weights of its own and a number that tells them apart."""
    folder = tmp_path_factory.mktemp("kinds")
    found: dict[Files, tuple[Path, float]] = {}
    for seed, kind in enumerate(KINDS):
        weights = write_checkpoint(folder / kind, TINY_QWEN2, files=kind, seed=seed, shards=2)
        found[kind] = (folder / kind, float(expected(TINY_QWEN2, weights)[MARK][0]))
    return found


def chosen_by_transformers(folder: Path) -> str:
    """The name of the file, or of the index, that it opens."""
    files, metadata = _get_resolved_checkpoint_files(
        str(folder),
        variant=None,
        gguf_file=None,
        use_safetensors=None,
        user_agent=None,
        is_remote_code=False,
        transformers_explicit_filename=None,
        download_kwargs={},
    )
    stem = "pytorch_model" if Path(files[0]).suffix == ".bin" else "model"
    return stem + (" in shards" if metadata is not None else "")


STEMS = {
    "safetensors": "model",
    "safetensors_sharded": "model in shards",
    "bin": "pytorch_model",
    "bin_sharded": "pytorch_model in shards",
}


@pytest.mark.parametrize(
    "kinds", [pair for count in (2, 3, 4) for pair in itertools.combinations(KINDS, count)]
)
def test_the_file_that_transformers_takes(
    tmp_path: Path, made: dict[Files, tuple[Path, float]], kinds: tuple[Files, ...]
) -> None:
    folder = tmp_path / "in"
    for kind in kinds:
        shutil.copytree(made[kind][0], folder, dirs_exist_ok=True)
    bundle = open_bundle(export(folder, tmp_path / "out", weights="fp32"))
    found = float(stored(bundle)[MARK][0])
    taken = next(kind for kind, (_, mark) in made.items() if mark == np.float32(found))
    assert STEMS[taken] == chosen_by_transformers(folder)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_an_index_whose_shards_are_gone(
    tmp_path: Path, made: dict[Files, tuple[Path, float]], kind: Files
) -> None:
    """A fine-tuning saved one file into a copy of a sharded checkpoint, and the old shards were deleted."""
    folder = Path(shutil.copytree(made[kind][0], tmp_path / "in"))
    other, _ = made["bin_sharded" if kind == "bin" else "safetensors_sharded"]
    (index,) = other.glob("*.index.json")
    shutil.copy(index, folder)
    bundle = open_bundle(export(folder, tmp_path / "out", weights="fp32"))
    assert stored(bundle)[MARK][0] == np.float32(made[kind][1])


@pytest.mark.parametrize("kind", ["safetensors", "safetensors_sharded"])
def test_a_file_that_the_configuration_names(
    tmp_path: Path, made: dict[Files, tuple[Path, float]], kind: Files
) -> None:
    folder = Path(shutil.copytree(made["safetensors"][0], tmp_path / "in"))
    source, mark = made[kind]
    name = "other.safetensors"
    if kind == "safetensors_sharded":
        name = "other.safetensors.index.json"
        for shard in source.glob("*-of-*"):
            shutil.copy(shard, folder)
        shutil.copy(source / "model.safetensors.index.json", folder / name)
    else:
        (folder / "model.safetensors").rename(folder / name)
        shutil.copy(made["safetensors_sharded"][0] / "model.safetensors.index.json", folder)
    edit(folder, "transformers_weights", value=name)
    assert stored(open_bundle(export(folder, tmp_path / "out", weights="fp32")))[MARK][0] == np.float32(mark)


@pytest.mark.parametrize("name", ["../a.safetensors", "/etc/passwd", "weights.pkl", "absent.safetensors", 3])
def test_a_named_file_that_cannot_be_taken(
    tmp_path: Path, made: dict[Files, tuple[Path, float]], name: object
) -> None:
    folder = Path(shutil.copytree(made["safetensors"][0], tmp_path / "in"))
    edit(folder, "transformers_weights", value=name)
    with pytest.raises(CheckpointError, match=r"transformers_weights|absent\.safetensors"):
        export(folder, tmp_path / "out")


def test_what_deepspeed_leaves(tmp_path: Path, made: dict[Files, tuple[Path, float]]) -> None:
    folder = Path(shutil.copytree(made["safetensors"][0], tmp_path / "in"))
    (folder / "model.safetensors").unlink()
    (folder / "zero_to_fp32.py").write_text("")
    with pytest.raises(CheckpointError, match=r"Run zero_to_fp32\.py"):
        export(folder, tmp_path / "out")


def test_a_byte_order_mark_in_every_json_file(tmp_path: Path, made: dict[Files, tuple[Path, float]]) -> None:
    """Editors on Windows write one."""
    write_checkpoint(tmp_path / "in", TINY_QWEN2, layout="native_second", files="safetensors_sharded")
    settings = {"min_patches": 2, "image_mean": [0.5, 0.5, 0.5]}
    (tmp_path / "in" / "preprocessor_config.json").write_text(json.dumps(settings))
    plain = open_bundle(export(tmp_path / "in", tmp_path / "plain", weights="fp32"))
    for path in (tmp_path / "in").glob("*.json"):
        if "tokenizer" not in path.name:
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    marked = open_bundle(export(tmp_path / "in", tmp_path / "marked", weights="fp32"))
    assert marked.manifest == plain.manifest
