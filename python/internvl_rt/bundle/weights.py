"""``weights.safetensors`` of a bundle: its header is read, bounded and checked before anything is mapped."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

from internvl_rt.bundle.manifest import WEIGHTS_FILE, Manifest, unreadable
from internvl_rt.bundle.safetensors import HeaderEntry, HeaderError, read_header
from internvl_rt.bundle.tensors import StoredTensor, stored_tensors, tensor_specs
from internvl_rt.errors import BundleError

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

    Every tensor that the manifest asks for is there with the right type, shape and length, inside the file,
    and nothing else is.

    Raises:
        BundleError: naming the file and the tensor.
    """
    path = folder / WEIGHTS_FILE
    try:
        header = read_header(path)
    except OSError as error:
        raise unreadable(path, error) from error
    except HeaderError as error:
        raise BundleError(f"{path}: {error}. Export the bundle again.") from error
    places = {
        tensor.name: _place(path, tensor, header.entries.get(tensor.name))
        for spec in tensor_specs(manifest)
        for tensor in stored_tensors(spec, manifest.precision)
    }
    matrices = {spec.name for spec in tensor_specs(manifest) if spec.kind == "matrix"}
    for name in manifest.precision.exceptions:
        if name not in matrices:
            raise BundleError(
                f"{path}: the manifest's precision.exceptions name {name[:200]!r}, which is not one of this "
                "model's matrices. Export the bundle again."
            )
    for name in manifest.precision.input_scales:
        if name not in matrices or places[name].tensor.dtype != "int8":
            raise BundleError(
                f"{path}: the manifest's precision.input_scales name {name[:200]!r}, which is not one of "
                "this model's int8 matrices. Export the bundle again."
            )
    for name in header.entries:
        if name not in places:
            raise BundleError(
                f"{path}: tensor {name[:200]!r} is not one of this model's tensors. Export the bundle again."
            )
    return places


def _place(path: Path, tensor: StoredTensor, entry: HeaderEntry | None) -> TensorPlace:
    where = f"{path}: tensor {tensor.name!r}"
    if entry is None:
        raise BundleError(f"{where} is missing. Export the bundle again.")
    if entry.dtype != SAFETENSORS_TYPE[tensor.dtype] or list(entry.shape) != header_shape(tensor):
        raise BundleError(
            f"{where} is {entry.dtype} {list(entry.shape)}; the manifest asks for "
            f"{SAFETENSORS_TYPE[tensor.dtype]} {header_shape(tensor)}. Export the bundle again."
        )
    return TensorPlace(tensor, entry.begin, entry.end)
