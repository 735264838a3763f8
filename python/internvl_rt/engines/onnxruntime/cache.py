"""The KV cache of the onnxruntime engine: buffers of a sequence that the graph updates in place."""

from __future__ import annotations

from math import prod

import numpy as np

from internvl_rt.bundle.manifest import LanguageModel
from internvl_rt.engines.engine import Float32Array
from internvl_rt.errors import DeviceError

GRANULARITY = 256
"""Tokens by which a sequence's buffers grow: attention reads whole buffers, so more would cost time, and
growing copies them, so less would too."""


class SequenceCache:
    """Keys and values of one sequence, in place behind the graph's cache inputs and outputs."""

    def __init__(self, llm: LanguageModel) -> None:
        self._llm = llm
        self.length = 0
        self.capacity = 0
        self.buffers: list[Float32Array] = [
            np.empty((1, llm.kv_heads, 0, llm.head_dim), np.float32) for _ in range(2 * llm.layers)
        ]
        """Keys and values of layer 0, of layer 1, ...: each [1, kv_heads, capacity, head_dim]."""

    def make_room(self, tokens: int) -> None:
        """Grows the buffers, if they must, to hold ``tokens`` tokens; what is in them is copied.

        Raises:
            DeviceError: if the machine has no more memory; nothing has changed then.
        """
        if tokens <= self.capacity:
            return
        capacity = -(-tokens // GRANULARITY) * GRANULARITY
        shape = (1, self._llm.kv_heads, capacity, self._llm.head_dim)
        # Zeros, because attention multiplies the places behind the mask by zero, and zero times NaN is NaN.
        # Fresh pages are zero and take no memory until they are written.
        try:
            larger = [np.zeros(shape, np.float32) for _ in self.buffers]
        except MemoryError as error:
            raise DeviceError(
                f"there is no memory for the keys and values of {capacity} tokens "
                f"({len(self.buffers) * prod(shape) * 4 / 1e9:.1f} GB). Drop sequences or shorten the prompt."
            ) from error
        for index, buffer in enumerate(larger):
            buffer[:, :, : self.length] = self.buffers[index][:, :, : self.length]
            self.buffers[index] = buffer  # frees the old one, so that no more than one is there twice
        self.capacity = capacity

    def copy(self) -> SequenceCache:
        """A sequence with the same content.

        Raises:
            DeviceError: if the machine has no more memory.
        """
        copy = SequenceCache(self._llm)
        copy.make_room(self.length)
        for mine, theirs in zip(copy.buffers, self.buffers, strict=True):
            mine[:, :, : self.length] = theirs[:, :, : self.length]
        copy.length = self.length
        return copy
