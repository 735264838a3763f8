"""A tensor of a checkpoint: where its elements lie in a file."""

from __future__ import annotations

import mmap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from internvl_rt.errors import CheckpointError

WEIGHT_TYPES: dict[str, np.dtype[Any]] = {
    "float64": np.dtype("<f8"),
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
"""The element types that weights come in, by name."""

RowIndex = slice | npt.NDArray[np.intp]
"""Which rows: a range, or their numbers in the order wanted."""


@dataclass(frozen=True)
class CheckpointTensor:
    """Where a tensor lies. Reading maps only the pages of the rows that are read."""

    name: str
    file: Path
    dtype: str
    """``float32``, ``bfloat16``, ...; types that are no weights keep their file format's name."""
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the file to the first element."""
    strides: tuple[int, ...]
    """In elements. torch saves views as they are, so rows need not be contiguous."""

    def rows(self, index: RowIndex = slice(None)) -> npt.NDArray[Any]:
        """A copy of some rows (the first axis), in the type of the file.

        Raises:
            CheckpointError: if the tensor's type is not one of ``WEIGHT_TYPES``, or the file cannot be read.
        """
        if self.dtype not in WEIGHT_TYPES:
            raise CheckpointError(
                f"{self.file}: tensor {self.name!r} is {self.dtype}; weights are {', '.join(WEIGHT_TYPES)}. "
                "Of quantised checkpoints, AWQ's can be exported: use such a one, or the original."
            )
        return self._read(index, WEIGHT_TYPES[self.dtype])

    def integers(self, index: RowIndex = slice(None)) -> npt.NDArray[np.int32]:
        """As :meth:`rows`, of a tensor of int32.

        Raises:
            CheckpointError: if the tensor has another type, or the file cannot be read.
        """
        if self.dtype != "int32":
            raise CheckpointError(
                f"{self.file}: tensor {self.name!r} is {self.dtype}; packed integers are int32. "
                "Download the checkpoint again."
            )
        return self._read(index, np.dtype("<i4"))

    def transposed(self) -> CheckpointTensor:
        """The same tensor with its axes in the opposite order."""
        return replace(self, shape=self.shape[::-1], strides=self.strides[::-1])

    def _read(self, index: RowIndex, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        numbers = np.arange(self.shape[0])[index]
        if 0 in self.shape or numbers.size == 0:
            return np.empty((numbers.size, *self.shape[1:]), dtype)
        first, last = int(numbers.min()), int(numbers.max())
        span = sum((n - 1) * s for n, s in zip(self.shape[1:], self.strides[1:], strict=True))
        begin = self.offset + first * self.strides[0] * dtype.itemsize
        elements = (last - first) * self.strides[0] + span + 1
        flat = self._map(begin, elements * dtype.itemsize).view(dtype)
        view = np.lib.stride_tricks.as_strided(
            flat,
            (last - first + 1, *self.shape[1:]),
            tuple(s * dtype.itemsize for s in self.strides),
            writeable=False,
        )
        chosen: npt.NDArray[Any] = view if isinstance(index, slice) else view[numbers - first]
        # The copy leaves no view of the map behind, so its pages are given back here.
        return np.array(chosen)

    def _map(self, begin: int, size: int) -> npt.NDArray[np.uint8]:
        """Maps ``size`` bytes of the file; the map is closed with the last view of it."""
        page = begin // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        try:
            with self.file.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), begin - page + size, access=mmap.ACCESS_READ, offset=page)
        except (OSError, ValueError, OverflowError) as error:
            raise CheckpointError(
                f"{self.file}: tensor {self.name!r} cannot be read ({error}). Download the checkpoint again."
            ) from error
        return np.frombuffer(mapped, np.uint8, size, begin - page)


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides, in elements, of a tensor that is stored row by row."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return tuple(strides)
