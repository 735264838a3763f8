"""AWQ checkpoints: linear layers of 4-bit integers in AutoAWQ's ``gemm`` layout, which LMDeploy writes too.

A layer NAME [out, in] is three tensors, with a group size g (128, as published):

- ``NAME.qweight`` int32 [in, out / 8]: eight 4-bit integers q to a word;
- ``NAME.qzeros`` int32 [in / g, out / 8]: likewise, the zero points z;
- ``NAME.scales`` float16 [in / g, out]: the scales s.

The weight is (q - z) s, and the nibbles of a word, the lowest first, are its columns 0, 2, 4, 6, 1, 3, 5, 7.

A bundle's int4 has no zero points: a block of 32 along K is a scale and integers from -8 to 7. A block whose
q - z are all in that range is taken over as it is, to the bit. In the others some q - z is outside, because
the group's zero point is not in its middle; they are rounded again, with the scale of the least squared
error, which is at most that of clipping. Of normally distributed weights in groups of 128 that is every fifth
block; the weights differ from AWQ's by 3.0 % then, and from the original ones by 10.5 % where AWQ's do by
10.1 %. (Student's t with five degrees of freedom: 5.5 %, 14.6 % and 13.3 %.) Zero points in the bundle would
keep these blocks too, at the price of another form of int4 in every kernel, graph and dialect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from internvl_rt.bundle.tensors import INT4_BLOCK
from internvl_rt.errors import CheckpointError
from internvl_rt.export.checkpoint.tensor import CheckpointTensor, RowIndex
from internvl_rt.export.quantise import Float32Array, pack_int4, quantise_int4, requantise_int4

NIBBLE_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)
"""The column of a word that each of its nibbles holds, from the lowest bits up."""

PER_WORD = 8

SUFFIXES = (".qweight", ".qzeros", ".scales")


@dataclass(frozen=True)
class AwqTensor:
    """The weight of one linear layer, read like a :class:`CheckpointTensor` of floats."""

    name: str
    """``NAME.weight``"""
    shape: tuple[int, ...]
    """[out, in]"""
    group: int
    """Elements along ``in`` that share a scale and a zero point."""
    qweight: CheckpointTensor
    qzeros: CheckpointTensor
    scales: CheckpointTensor

    @property
    def file(self) -> Path:
        """The file that holds the integers."""
        return self.qweight.file

    def rows(self, index: RowIndex = slice(None)) -> Float32Array:
        """Some rows [n, in] as float32, exactly.

        Raises:
            CheckpointError: if a tensor is of another type than the layout says, or cannot be read.
        """
        values, scales = self._read(index)
        weights: Float32Array = values.astype(np.float32) * np.repeat(scales, self.group, axis=1)
        return weights

    def int4_rows(self, index: RowIndex) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16]]:
        """Some rows as a bundle stores int4: packed [n, in / 2] and scales [n, in / 32].

        Raises:
            CheckpointError: as :meth:`rows`.
        """
        if self.group % INT4_BLOCK:
            return quantise_int4(self.rows(index), self.name)
        values, scales = self._read(index)
        stored = np.repeat(scales, self.group // INT4_BLOCK, axis=1).reshape(-1)
        blocks = values.reshape(-1, INT4_BLOCK)
        exact = (blocks.min(axis=1) >= -8) & (blocks.max(axis=1) <= 7)
        exact &= (stored > 0) & (stored.astype(np.float16) == stored)
        integers, kept = np.clip(blocks, -8, 7), stored.astype(np.float16)
        others = ~exact
        if others.any():
            wanted = blocks[others].astype(np.float32) * stored[others, None]
            integers[others], kept[others] = requantise_int4(wanted, stored[others], self.name)
        n, k = values.shape
        return pack_int4(integers.reshape(n, k)), kept.reshape(n, k // INT4_BLOCK)

    def _read(self, index: RowIndex) -> tuple[npt.NDArray[np.int8], Float32Array]:
        """Differences q - z of some rows, int8 [n, in], and their scales [n, in / group]."""
        numbers = np.arange(self.shape[0])[index]
        words = np.unique(numbers // PER_WORD)
        rows = np.searchsorted(words, numbers // PER_WORD) * PER_WORD + numbers % PER_WORD
        values = _unpack(self.qweight.transposed().integers(words))[rows]
        values -= np.repeat(_unpack(self.qzeros.transposed().integers(words))[rows], self.group, axis=1)
        return values, self.scales.transposed().rows(numbers).astype(np.float32)


def _unpack(words: npt.NDArray[np.int32]) -> npt.NDArray[np.int8]:
    """[w, k] words to the 4-bit integers of their columns, [8 w, k]."""
    columns = np.empty((len(words), PER_WORD, words.shape[1]), np.int8)
    bits = words.view(np.uint32)
    for nibble, column in enumerate(NIBBLE_COLUMNS):
        columns[:, column] = (bits >> np.uint32(4 * nibble)) & np.uint32(15)
    return columns.reshape(-1, words.shape[1])


def join_awq(
    tensors: Mapping[str, CheckpointTensor], group_size: int
) -> dict[str, CheckpointTensor | AwqTensor]:
    """Puts one ``NAME.weight`` in the place of each layer's three tensors.

    Args:
        tensors: of the checkpoint.
        group_size: as its configuration says; -1 is all of ``in``.

    Raises:
        CheckpointError: if one of the three is missing or has another shape.
    """
    joined: dict[str, CheckpointTensor | AwqTensor] = {}
    for name, tensor in tensors.items():
        layer = next((name.removesuffix(s) for s in SUFFIXES if name.endswith(s)), None)
        if layer is None or f"{layer}.qweight" not in tensors:
            joined[name] = tensor
        elif name.endswith(".qweight"):
            joined[f"{layer}.weight"] = _layer(tensors, layer, group_size)
    return joined


def _layer(tensors: Mapping[str, CheckpointTensor], layer: str, group_size: int) -> AwqTensor:
    qweight = tensors[f"{layer}.qweight"]
    inner = qweight.shape[0] if len(qweight.shape) == 2 else 0
    group = inner if group_size == -1 else group_size
    if group < 1 or inner < 1 or inner % group:
        raise CheckpointError(
            f"{qweight.file}: tensor {qweight.name!r} has the shape {list(qweight.shape)}; with AWQ's group "
            f"size {group_size} its first extent must be a multiple of that. {_AGAIN}"
        )
    words = qweight.shape[1]
    for suffix, shape in (
        (".qzeros", (inner // group, words)),
        (".scales", (inner // group, words * PER_WORD)),
    ):
        tensor = tensors.get(layer + suffix)
        if tensor is None or tensor.shape != shape:
            found = "is missing" if tensor is None else f"has the shape {list(tensor.shape)}"
            raise CheckpointError(
                f"{qweight.file}: tensor {layer + suffix!r} {found}; beside {qweight.name!r} of "
                f"{list(qweight.shape)} it must be {list(shape)}. {_AGAIN}"
            )
    return AwqTensor(
        f"{layer}.weight",
        (words * PER_WORD, inner),
        group,
        qweight,
        tensors[f"{layer}.qzeros"],
        tensors[f"{layer}.scales"],
    )


_AGAIN = "This release reads the layout of AutoAWQ's version 'gemm'; download the checkpoint again."
