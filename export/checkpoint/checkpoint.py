"""A checkpoint folder: which files hold its tensors, and its configuration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvl_rt import _core
from internvl_rt.bundle.manifest import MANIFEST_FILE
from internvl_rt.errors import BundleError, CheckpointError
from internvl_rt.export.checkpoint.adapters import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHT_FILES,
    adapter_of_folder,
    check_merged,
)
from internvl_rt.export.checkpoint.awq import AwqTensor, join_awq
from internvl_rt.export.checkpoint.tensor import CheckpointTensor, contiguous_strides
from internvl_rt.export.checkpoint.torch_file import read_torch_file
from internvl_rt.export.fields import Fields
from internvl_rt.export.strict_json import JsonError, parse_json
from internvl_rt.files.errors import advice, reason, shortened

CONFIG_FILE = "config.json"
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""The order in which transformers looks for them. It takes the first, whatever lies beside it: a fine-tuning
that saves one file into a copy of a sharded checkpoint leaves the old index there."""
INDEX_SUFFIX = ".index.json"

MAX_JSON_BYTES = 64 << 20

_TYPE_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I32": "int32"}


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint folder. Nothing of its weights has been read yet."""

    folder: Path
    config: dict[str, Any]
    tensors: Mapping[str, CheckpointTensor | AwqTensor]

    @property
    def name(self) -> str:
        """The model's: that of the folder, or of the repository for a snapshot in the hub's cache.

        A commit names a snapshot: ``models--OWNER--NAME/snapshots/COMMIT``.
        """
        folder = self.folder.resolve()
        repository = folder.parent.parent.name
        if folder.parent.name == "snapshots" and repository.startswith("models--"):
            return repository.rpartition("--")[2]
        return folder.name

    @property
    def is_awq(self) -> bool:
        """Whether its language model has 4-bit integers already."""
        return any(isinstance(tensor, AwqTensor) for tensor in self.tensors.values())


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Opens a checkpoint folder: ``config.json`` and the headers of all weight files.

    Of several kinds of weight files in a folder the one is taken that transformers takes.

    Raises:
        CheckpointError: if there is no such folder, a file is missing, unreadable, truncated or malformed, a
            tensor stands in two files, or an adapter is not merged into the weights.
    """
    try:
        folder = Path(path)
    except TypeError as error:
        raise CheckpointError(
            f"a checkpoint is named by the path of its folder, a str or a Path; found {type(path).__name__}."
        ) from error
    try:
        return _open(folder)
    except OSError as error:
        raise unreadable(folder, error) from error


def _open(folder: Path) -> Checkpoint:
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder}: there is no such folder. Give the path of a downloaded checkpoint "
            "(`hf download OpenGVLab/InternVL2_5-1B --local-dir FOLDER` makes one)."
        )
    if (folder / MANIFEST_FILE).is_file() and not (folder / CONFIG_FILE).exists():
        raise CheckpointError(
            f"{folder}: is a bundle already. Use it as it is (`internvl-rt chat {folder}`), or give the "
            "checkpoint that it was made from."
        )
    _check_no_adapter(folder)
    config = read_json(folder / CONFIG_FILE)
    files, index = _weight_files(folder, config)
    tensors: dict[str, CheckpointTensor] = {}
    for file in files:
        for name, tensor in _read_file(file).items():
            if name in tensors:
                raise CheckpointError(
                    f"{file}: tensor {name!r} stands in {tensors[name].file.name} too. "
                    "The folder mixes files of two checkpoints: download it again into an empty folder."
                )
            tensors[name] = tensor
    for name, file_name in index.items():
        if name not in tensors or tensors[name].file.name != file_name:
            raise CheckpointError(
                f"{folder / file_name}: lacks the tensor {name!r}, which the index places there. "
                "Download the checkpoint again."
            )
    check_merged(tensors, str(folder))
    group_size = awq_group_size(config, str(folder / CONFIG_FILE))
    return Checkpoint(folder, config, tensors if group_size is None else join_awq(tensors, group_size))


def _check_no_adapter(folder: Path) -> None:
    settings = None
    if (folder / ADAPTER_CONFIG_FILE).is_file():
        settings = read_json(folder / ADAPTER_CONFIG_FILE)
    elif not any((folder / name).is_file() for name in ADAPTER_WEIGHT_FILES):
        return
    raise adapter_of_folder(folder, settings)


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """The error for a file or folder that the operating system does not give."""
    told = advice(error, "Download the checkpoint again.")
    return CheckpointError(f"{shortened(path)}: cannot be read ({reason(error)}). {told}")


def awq_group_size(config: dict[str, Any], where: str) -> int | None:
    """The group size of an AWQ checkpoint, -1 for whole rows; None for one that is not quantised.

    ``quantization_config`` stands at the top (AutoAWQ) or with the language model's facts (LMDeploy).

    Raises:
        CheckpointError: if the checkpoint is quantised in another way.
    """
    outer = Fields(config, where)
    for fields in (
        outer,
        *(outer.inner(k) for k in ("llm_config", "text_config") if config.get(k) is not None),
    ):
        if fields.values.get("quantization_config") is None:
            continue
        found = fields.inner("quantization_config")
        if all(value is None for value in found.values.values()):
            continue
        method = found.text("quant_method", "")
        if method.lower() != "awq":
            raise CheckpointError(
                f"{found.where}: this checkpoint is quantised already, by {method!r}. Of quantised ones this "
                "release exports AWQ's. Export the original; `weights` chooses the precision of the bundle."
            )
        found.require("bits", found.integer("bits", 4), 4)
        found.require("version", found.text("version", "gemm").lower(), "gemm")
        return found.integer("group_size", 128)
    return None


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Raises:
        CheckpointError: if it is missing, too large, or something else.
    """
    try:
        if not path.is_file():
            raise CheckpointError(f"{path.parent}: has no {path.name}. Download the whole checkpoint folder.")
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path}: is implausibly large. Download the checkpoint again.")
        document = parse_json(path.read_bytes())
    except OSError as error:
        raise unreadable(path, error) from error
    except JsonError as error:
        raise CheckpointError(f"{path}: {error}. Download the checkpoint again.") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: is not a JSON object. Download the checkpoint again.")
    return document


def _weight_files(folder: Path, config: dict[str, Any]) -> tuple[list[Path], dict[str, str]]:
    """The files that hold the weights, and the index (tensor name to file name) if there is one."""
    chosen = Fields(config, str(folder / CONFIG_FILE)).text("transformers_weights", "")
    if chosen and (Path(chosen).name != chosen or not chosen.endswith((".safetensors", INDEX_SUFFIX))):
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: transformers_weights is {chosen[:200]!r}; this release expects the "
            "name of a safetensors file, or of an index of such files, in the same folder."
        )
    names = (chosen,) if chosen else WEIGHT_FILES
    for name in names:
        if (folder / name).is_file():
            found = folder / name
            return _indexed_files(folder, found) if name.endswith(INDEX_SUFFIX) else ([found], {})
    shards = sorted(f.name for f in folder.glob("*-of-*") if f.suffix in (".safetensors", ".bin"))
    there = "there are none of these. Download the whole checkpoint folder."
    if shards:
        there = (
            f"there are shards ({shards[0]}, ...) but no index file. Download the whole checkpoint folder."
        )
    elif (folder / "zero_to_fp32.py").is_file():
        there = "there are DeepSpeed's alone. Run zero_to_fp32.py, which lies in this folder, to make them."
    raise CheckpointError(f"{folder}: weights are expected in {', '.join(names)}; {there}")


def _indexed_files(folder: Path, path: Path) -> tuple[list[Path], dict[str, str]]:
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: has no weight_map. Download the checkpoint again.")
    for name, file_name in weight_map.items():
        if (
            not isinstance(file_name, str)
            or Path(file_name).name != file_name
            or file_name in ("", ".", "..")
        ):
            raise CheckpointError(
                f"{path}: places tensor {name[:200]!r} in {str(file_name)[:200]!r}, not a file name. "
                "The index is altered: download the checkpoint again."
            )
    counts = Counter(weight_map.values())
    missing = sorted(name for name in counts if not (folder / name).is_file())
    if missing:
        raise CheckpointError(
            f"{folder / missing[0]}: this shard is missing ({len(missing)} of {len(counts)} are). "
            "Download the whole checkpoint folder."
        )
    return [folder / name for name in sorted(counts)], weight_map


def _read_file(path: Path) -> dict[str, CheckpointTensor]:
    _check_not_pointer(path)
    if path.suffix != ".safetensors":
        return read_torch_file(path)
    try:
        header = _core.read_safetensors_header(path)
    except OSError as error:
        raise unreadable(path, error) from error
    except BundleError as error:
        raise CheckpointError(f"{path}: {error}. Download the checkpoint again.") from error
    return {
        entry.name: CheckpointTensor(
            entry.name,
            path,
            _TYPE_NAMES.get(entry.dtype, entry.dtype),
            entry.shape,
            entry.begin,
            contiguous_strides(entry.shape),
        )
        for entry in header
    }


def _check_not_pointer(path: Path) -> None:
    """A clone without Git LFS has small text files in the places of the weights."""
    try:
        with path.open("rb") as file:
            start = file.read(40)
    except OSError as error:
        raise unreadable(path, error) from error
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path}: is a Git LFS pointer, not the weights. Run `git lfs pull` in the checkpoint folder."
        )
