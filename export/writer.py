"""Writing a bundle: weights are streamed, and the folder appears under its name only when it is complete."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

import internvl_rt
from internvl_rt.bundle.graph_sets import ALL_GRAPH_FILES
from internvl_rt.bundle.manifest import (
    MANIFEST_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    FileEntry,
    Manifest,
    Precision,
)
from internvl_rt.bundle.tensors import (
    SCALES_SUFFIX,
    StoredTensor,
    TensorPlace,
    TensorSpec,
    read_places,
    tensor_specs,
)
from internvl_rt.errors import BundleError
from internvl_rt.export.staging import staged
from internvl_rt.files.sizes import readable_size

DATA_ALIGNMENT = 4096
"""The data section begins at a page, so that tensors are aligned in memory when the file is mapped."""

TENSOR_ALIGNMENT = 64
"""A cache line, and the widest vector register."""

ROW_BYTES = 8 << 20
"""About how many bytes of float32 a source makes at once."""


@dataclass(frozen=True)
class EncodedRows:
    """Some rows of a stored tensor as they stand in the file, and their scales if it is quantised."""

    data: npt.NDArray[Any]
    scales: npt.NDArray[Any] | None = None


class WeightSource(Protocol):
    """Where the writer gets weights from: a checkpoint, or random numbers."""

    def encode(self, spec: TensorSpec, precision: Precision) -> Iterator[EncodedRows]:
        """All rows of a logical tensor, in order, a bounded number at a time."""


Advance = Callable[[str, int], None]
"""Told the name of the tensor being written and how many bytes were written since the last call."""


@dataclass(frozen=True)
class PlannedTensor:
    """A stored tensor, the logical tensor that it belongs to, and its offsets in the data section."""

    spec: TensorSpec
    tensor: StoredTensor
    begin: int
    end: int


def plan_layout(manifest: Manifest) -> list[PlannedTensor]:
    """The order of the tensors in the file.

    The format allows no holes, so the order gives the alignment: first all tensors whose size is a multiple
    of 64 bytes, in the order in which they are computed with; then the rest, wide elements first, so that
    each is aligned to its element.
    """
    stored = [(spec, tensor) for spec in tensor_specs(manifest) for tensor in spec.stored]
    stored.sort(key=lambda item: _order(item[1]))
    result, position = [], 0
    for spec, tensor in stored:
        end = position + tensor.bytes
        result.append(PlannedTensor(spec, tensor, position, end))
        position = end
    return result


def _order(tensor: StoredTensor) -> int:
    """Stable sort key of the layout."""
    return 0 if tensor.bytes % TENSOR_ALIGNMENT == 0 else 8 * prod(tensor.shape) // tensor.bytes


def write_weights(
    path: Path, manifest: Manifest, source: WeightSource, advance: Advance | None = None
) -> FileEntry:
    """Writes ``weights.safetensors`` front to back, hashing it on the way.

    Only the rows in flight and the scales of one tensor are in memory.

    Raises:
        CheckpointError: from the source.
        OSError: if the file cannot be written.
    """
    layout = plan_layout(manifest)
    header = _header_bytes(layout)
    total = len(header) + layout[-1].end
    digest = hashlib.sha256()
    scales_ahead: dict[str, memoryview] = {}
    with path.open("wb") as file:
        file.write(header)
        digest.update(header)
        for planned in layout:
            size = planned.end - planned.begin
            written = 0
            if planned.tensor.name in scales_ahead:
                parts: Iterator[memoryview] = iter([scales_ahead.pop(planned.tensor.name)])
            else:
                parts = _encoded(planned, source, scales_ahead)
            for part in parts:
                file.write(part)
                digest.update(part)
                written += len(part)
                if advance is not None:
                    advance(planned.spec.name, len(part))
            if written != size:
                raise AssertionError(f"{planned.tensor.name}: {written} bytes were made, {size} planned")
        file.flush()
        os.fsync(file.fileno())
    return FileEntry(total, digest.hexdigest())


def file_entry(path: Path) -> FileEntry:
    """The manifest's entry of a file: its size and SHA-256.

    Raises:
        OSError: if the file cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
            size += len(chunk)
    return FileEntry(size, digest.hexdigest())


def _check_room(folder: Path, out: Path, manifest: Manifest) -> None:
    layout = plan_layout(manifest)
    needed = len(_header_bytes(layout)) + layout[-1].end
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BundleError(
            f"{out}: the bundle needs {readable_size(needed)}; the disk has {readable_size(free)} left. "
            "Free some room, or choose a smaller precision."
        )


def _encoded(
    planned: PlannedTensor, source: WeightSource, scales_ahead: dict[str, memoryview]
) -> Iterator[memoryview]:
    """The bytes of one stored tensor. Scales that come after their weights in the file are kept for then."""
    spec, name = planned.spec, planned.tensor.name
    scales = []
    for rows in source.encode(spec, spec.precision):
        if name == spec.name:
            yield _bytes_of(rows.data)
        if rows.scales is not None:
            scales.append(rows.scales)
    if scales:
        joined = _bytes_of(np.concatenate(scales))
        if name == spec.name:
            scales_ahead[spec.name + SCALES_SUFFIX] = joined
        else:
            yield joined


def _bytes_of(array: npt.NDArray[Any]) -> memoryview:
    """The bytes of a contiguous array, without a copy and whatever its dtype."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def generator() -> str:
    """What the manifest says wrote it."""
    return f"internvl_rt {internvl_rt.__version__}"


def bundle_folder(out: str | Path) -> Path:
    """The path that a caller names.

    Raises:
        BundleError: if it is none.
    """
    try:
        named = os.fspath(out)
        if not isinstance(named, str) or not named or "\0" in named:
            raise TypeError
    except TypeError:
        raise BundleError(
            f"out is the path of the bundle's folder, a str or a Path, not {out!r:.200}."
        ) from None
    return Path(named)


def write_bundle(
    out: Path,
    manifest: Manifest,
    source: WeightSource,
    write_others: Callable[[Path, Manifest, dict[str, TensorPlace]], None],
    *,
    overwrite: bool = False,
    advance: Advance | None = None,
) -> Path:
    """Writes a bundle: weights, then what ``write_others`` adds, then the manifest with every file's hash.

    Args:
        out: the bundle's folder.
        manifest: the facts; its ``files`` are filled in here.
        source: gives the weights.
        write_others: writes graphs and tokenizer into the folder that it is given.
        overwrite: replace the bundle that is there.
        advance: is told about every piece of the weights that was written.

    Raises:
        BundleError: if the manifest is impossible, ``out`` is taken or another export writes there, or the
            disk is full or refuses.
        CheckpointError: from the source.
    """
    manifest.checked(str(out))
    with staged(out, overwrite) as folder:
        _check_room(folder, out, manifest)
        weights = write_weights(folder / WEIGHTS_FILE, manifest, source, advance)
        write_others(folder, manifest, read_places(folder, manifest))
        files = {WEIGHTS_FILE: weights}
        for name in (*ALL_GRAPH_FILES, TOKENIZER_FILE):
            if (folder / name).is_file():
                files[name] = file_entry(folder / name)
        document = dataclasses.replace(manifest, files=files).to_json()
        (folder / MANIFEST_FILE).write_text(document, encoding="utf-8")
    return out


def _header_bytes(layout: list[PlannedTensor]) -> bytes:
    """The length and the JSON header, padded with spaces to a page."""
    document: dict[str, Any] = {"__metadata__": {"format": "internvl_rt"}}
    for planned in layout:
        document[planned.tensor.name] = {
            "dtype": planned.tensor.header_dtype,
            "shape": planned.tensor.header_shape,
            "data_offsets": [planned.begin, planned.end],
        }
    text = json.dumps(document, separators=(",", ":")).encode()
    padded = -(-(8 + len(text)) // DATA_ALIGNMENT) * DATA_ALIGNMENT - 8
    return padded.to_bytes(8, "little") + text.ljust(padded)
