"""``weights.safetensors`` of a bundle: its header is read, bounded and checked before anything is mapped."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from internvl_rt.bundle.manifest import WEIGHTS_FILE, Manifest
from internvl_rt.bundle.tensors import StoredTensor, stored_tensors, tensor_specs
from internvl_rt.errors import BundleError

MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors format itself."""

SAFETENSORS_TYPE = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int8": "I8",
    "int4": "U8",  # two elements to a byte; the last extent is halved
}
BITS = {"float32": 32, "float16": 16, "bfloat16": 16, "int8": 8, "int4": 4}


@dataclass(frozen=True)
class TensorPlace:
    """Where a stored tensor lies: byte offsets from the start of the file."""

    tensor: StoredTensor
    begin: int
    end: int


def stored_bytes(tensor: StoredTensor) -> int:
    """Bytes of a stored tensor."""
    return prod(tensor.shape) * BITS[tensor.dtype] // 8


def header_shape(tensor: StoredTensor) -> list[int]:
    """The shape that stands in the safetensors header."""
    if tensor.dtype == "int4":
        return [*tensor.shape[:-1], tensor.shape[-1] // 2]
    return list(tensor.shape)


def read_places(folder: Path, manifest: Manifest) -> dict[str, TensorPlace]:
    """Reads the header of a bundle's weights and holds it against the model's facts.

    Every tensor that the manifest asks for is there with the right type, shape and length, inside the file.

    Raises:
        BundleError: naming the file and the tensor.
    """
    path = folder / WEIGHTS_FILE
    header, data_begin, file_size = _read_header(path)
    places: dict[str, TensorPlace] = {}
    for spec in tensor_specs(manifest):
        for tensor in stored_tensors(spec, manifest.precision):
            places[tensor.name] = _place(path, tensor, header.get(tensor.name), data_begin, file_size)
    return places


def _read_header(path: Path) -> tuple[dict[str, Any], int, int]:
    try:
        with path.open("rb") as file:
            file_size = path.stat().st_size
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > min(MAX_HEADER_BYTES, file_size - 8):
                raise BundleError(
                    f"{path}: its header claims {length} bytes of a file of {file_size}. "
                    "The file is truncated or altered: export the bundle again."
                )
            header = json.loads(file.read(length))
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}). Export the bundle again.") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: its header is not JSON ({error}). Export the bundle again.") from error
    if not isinstance(header, dict):
        raise BundleError(f"{path}: its header is not a JSON object. Export the bundle again.")
    return header, 8 + length, file_size


def _place(path: Path, tensor: StoredTensor, entry: Any, data_begin: int, file_size: int) -> TensorPlace:
    where = f"{path}: tensor {tensor.name!r}"
    if entry is None:
        raise BundleError(f"{where} is missing. Export the bundle again.")
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            raise BundleError(f"{where} has a malformed header entry. Export the bundle again.")
    if dtype != SAFETENSORS_TYPE[tensor.dtype] or shape != header_shape(tensor):
        raise BundleError(
            f"{where} is {dtype} {shape}; the manifest asks for "
            f"{SAFETENSORS_TYPE[tensor.dtype]} {header_shape(tensor)}. Export the bundle again."
        )
    begin, end = begin + data_begin, end + data_begin
    if not data_begin <= begin <= end <= file_size:
        raise BundleError(
            f"{where} lies at bytes {begin} to {end}, outside of the file's {file_size} bytes. "
            "The file is truncated or altered: export the bundle again."
        )
    if end - begin != stored_bytes(tensor):
        raise BundleError(
            f"{where} has {end - begin} bytes where its shape needs {stored_bytes(tensor)}. "
            "Export the bundle again."
        )
    return TensorPlace(tensor, begin, end)
