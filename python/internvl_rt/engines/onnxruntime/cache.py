"""The KV cache of the onnxruntime engine: buffers of a sequence that the graph updates in place."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from internvl_rt.bundle.manifest import LanguageModel
from internvl_rt.engines.onnxruntime.session import Tensor
from internvl_rt.errors import DeviceError

GRANULARITY = 256
"""Tokens by which a sequence's buffers grow: attention reads whole buffers, so more would cost time, and
growing copies them, so less would too."""


class SequenceCache:
    """Keys and values of one sequence, in place behind the graph's cache inputs and outputs."""

    def __init__(
        self,
        llm: LanguageModel,
        dtype: npt.DTypeLike = np.float32,
        memory: str = "cpu",
        fixed: int | None = None,
    ) -> None:
        """An empty sequence.

        Args:
            llm: the facts.
            dtype: of keys and values.
            memory: where they lie: ``cpu``, or a device of ONNX Runtime's such as ``cuda``.
            fixed: the only capacity that the graph takes; None where buffers may grow.
        """
        self._llm = llm
        self._dtype = np.dtype(dtype)
        self._memory = memory
        self._fixed = fixed
        self.length = 0
        self.appending = 0
        """Tokens that a call is appending: it holds the sequence, and others leave it alone."""
        self.capacity = 0
        self.buffers: list[Tensor] = [
            np.empty((1, llm.kv_heads, 0, llm.head_dim), self._dtype) for _ in range(2 * llm.layers)
        ]
        """Keys and values of layer 0, of layer 1, ...: each [1, kv_heads, capacity, head_dim]."""

    def make_room(self, tokens: int) -> None:
        """Grows the buffers, if they must, to hold ``tokens`` tokens; what is in them is copied.

        Raises:
            DeviceError: if the machine has no more memory; nothing has changed then.
        """
        if tokens <= self.capacity:
            return
        capacity = self._fixed or -(-tokens // GRANULARITY) * GRANULARITY
        shape = (1, self._llm.kv_heads, capacity, self._llm.head_dim)
        # Zeros, because attention multiplies the places behind the mask by zero, and zero times NaN is NaN.
        # Fresh pages are zero and take no memory until they are written.
        size = len(self.buffers) * prod(shape) * self._dtype.itemsize
        try:
            larger = [np.zeros(shape, self._dtype) for _ in self.buffers]
        except MemoryError as error:
            raise self._no_memory(capacity, size) from error
        if self._memory != "cpu":
            try:
                self.buffers = [
                    self._on_device(new, old) for new, old in zip(larger, self.buffers, strict=True)
                ]
            except Exception as error:  # ONNX Runtime has no type of its own for this
                raise self._no_memory(capacity, size) from error
        else:
            for index, buffer in enumerate(larger):
                buffer[:, :, : self.length] = self._filled(self.buffers[index])
                self.buffers[index] = buffer  # frees the old one, so that no more than one is there twice
        self.capacity = capacity

    def copy(self, tokens: int) -> SequenceCache:
        """A sequence with the first ``tokens`` tokens.

        Raises:
            DeviceError: if the machine has no more memory.
        """
        copy = SequenceCache(self._llm, self._dtype, self._memory, self._fixed)
        # Its own capacity is still nothing, so making room replaces the buffers by copies.
        copy.length, copy.buffers = tokens, list(self.buffers)
        copy.make_room(copy.length)
        return copy

    def _on_device(self, new: npt.NDArray[Any], old: Tensor) -> onnxruntime.OrtValue:
        new[:, :, : self.length] = self._filled(old)
        return onnxruntime.OrtValue.ortvalue_from_numpy(new, self._memory, 0)

    def _filled(self, buffer: Tensor) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = buffer if isinstance(buffer, np.ndarray) else buffer.numpy()
        return array[:, :, : self.length]

    def _no_memory(self, capacity: int, size: int) -> DeviceError:
        return DeviceError(
            f"there is no memory for the keys and values of {capacity} tokens ({size / 1e9:.1f} GB). "
            "Shorten the prompt, or ask for fewer answers at once."
        )
