"""The safetensors container: its header is bounded, parsed and checked before anything is mapped.

A file is eight bytes of header length (little endian), a JSON header that gives every tensor's type, shape
and byte range, and the data. What is checked here is what makes the ranges safe to use: they lie inside the
file, belong to one tensor each, leave no hole, and are as long as type and shape say. See
https://github.com/huggingface/safetensors for the format.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

MAX_HEADER_BYTES = 16 * 1024 * 1024
"""Headers of real files are at most a few hundred KB; parsed JSON takes up to thirty times its text."""

MAX_DIMENSIONS = 8
MAX_EXTENT = 1 << 48
"""Keeps products of extents small enough to be computed quickly."""

TYPE_BITS = {
    "F64": 64,
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "I64": 64,
    "I32": 32,
    "I16": 16,
    "I8": 8,
    "U64": 64,
    "U32": 32,
    "U16": 16,
    "U8": 8,
    "BOOL": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
}


class HeaderError(ValueError):
    """A header that cannot be trusted. The message names the tensor, not the file."""


@dataclass(frozen=True)
class HeaderEntry:
    """One tensor of a file; ``begin`` and ``end`` are byte offsets from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """The checked header of one file."""

    entries: dict[str, HeaderEntry]
    metadata: dict[str, str]
    data_begin: int
    file_size: int


def read_header(path: Path) -> Header:
    """Reads and checks the header of a safetensors file.

    Raises:
        HeaderError: if the header is truncated, too long, not JSON, has a key twice or a malformed entry, or
            the tensors do not fill the file's data section exactly, each byte belonging to one tensor.
        OSError: if the file cannot be read.
    """
    with path.open("rb") as file:
        file_size = path.stat().st_size
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > file_size - 8:
            raise HeaderError(
                f"its header claims {length} bytes of a file of {file_size}: the file is truncated or altered"
            )
        if length > MAX_HEADER_BYTES:
            raise HeaderError(
                f"its header claims {length} bytes, more than the limit of {MAX_HEADER_BYTES}: "
                "the file is altered"
            )
        text = file.read(length)
    document = parse_json(text)
    if not isinstance(document, dict):
        raise HeaderError("its header is not a JSON object")
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise HeaderError("its __metadata__ is not an object of strings")
    data_begin = 8 + length
    entries = {name: _entry(name, value, data_begin) for name, value in document.items()}
    _check_layout(entries, data_begin, file_size)
    return Header(entries, metadata, data_begin, file_size)


def parse_json(text: bytes) -> Any:
    """Parses JSON strictly: no key twice, no NaN or Infinity, bounded nesting.

    Raises:
        HeaderError: if it is anything else.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except HeaderError:
        raise
    except (ValueError, RecursionError, MemoryError) as error:
        raise HeaderError(f"is not JSON ({str(error)[:200]})") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise HeaderError(f"has the key {key!r} twice")
            seen.add(key)
    return result


def _no_constant(name: str) -> Any:
    raise HeaderError(f"has {name}, which is not JSON")


def _entry(name: str, value: Any, data_begin: int) -> HeaderEntry:
    where = f"tensor {name[:200]!r}"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise HeaderError(f"{where} has a header entry that is not of dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in TYPE_BITS:
        raise HeaderError(f"{where} is of the unknown type {str(dtype)[:50]!r}")
    # type() and not isinstance: JSON's true is an int to Python.
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DIMENSIONS
        or not all(type(extent) is int and 0 <= extent <= MAX_EXTENT for extent in shape)
    ):
        raise HeaderError(f"{where} has the impossible shape {str(shape)[:100]}")
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(type(offset) is int and offset >= 0 for offset in offsets)
        or offsets[0] > offsets[1]
    ):
        raise HeaderError(f"{where} has the impossible data_offsets {str(offsets)[:100]}")
    needed = prod(shape) * TYPE_BITS[dtype] // 8
    if offsets[1] - offsets[0] != needed:
        raise HeaderError(f"{where} has {offsets[1] - offsets[0]} bytes where {dtype} {shape} needs {needed}")
    return HeaderEntry(dtype, tuple(shape), data_begin + offsets[0], data_begin + offsets[1])


def _check_layout(entries: dict[str, HeaderEntry], data_begin: int, file_size: int) -> None:
    position, before = data_begin, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            relation = "overlaps" if entry.begin < position else "leaves a hole after"
            raise HeaderError(
                f"tensor {name[:200]!r} at bytes {entry.begin} to {entry.end} {relation} {before[:200]}"
            )
        position, before = entry.end, f"tensor {name!r}"
    if position != file_size:
        raise HeaderError(
            f"its tensors end at byte {position} of a file of {file_size} bytes: "
            "the file is truncated or altered"
        )
