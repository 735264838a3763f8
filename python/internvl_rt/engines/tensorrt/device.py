"""What the TensorRT engine asks of a GPU: memory, and programs that run on it in order.

``nvidia.py`` satisfies it with TensorRT and CUDA.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from internvl_rt.engines.tensorrt.profiles import Profile, Shape
from internvl_rt.engines.tensorrt.toolkit import Toolkit


@dataclass(frozen=True)
class Binding:
    """Where a program finds an input or puts an output."""

    address: int
    shape: Shape
    """Of an input; an output's shape follows from them."""


class Program(Protocol):
    """One engine, loaded."""

    def run(self, profile: int, bindings: Mapping[str, Binding]) -> None:
        """Starts a run behind what was started before; an output may lie where its input does.

        Raises:
            InternVLError: if TensorRT refuses.
        """


class Device(Protocol):
    """A GPU. What is started runs in order; only ``read`` waits for it."""

    def allocate(self, size: int) -> int:
        """The address of ``size`` new bytes, all zero.

        Raises:
            DeviceError: if there is no memory.
        """

    def free(self, address: int) -> None:
        """Gives memory back, once what was started is done."""

    def write(self, address: int, array: npt.NDArray[Any]) -> None:
        """Copies a contiguous array to the device."""

    def read(self, array: npt.NDArray[Any], address: int) -> None:
        """Copies from the device into a contiguous array, and waits for it."""

    def copy(self, target: int, source: int, size: int) -> None:
        """Copies on the device."""

    def clear(self, address: int, size: int) -> None:
        """Makes memory zero."""

    def load(self, engine: bytes) -> Program:
        """Makes a built engine ready.

        Raises:
            DeviceError: if this TensorRT or GPU does not take it.
        """


class Builder(Protocol):
    """Makes engines of graphs."""

    toolkit: Toolkit

    def build(
        self, graph: Path, profiles: tuple[Profile, ...], timing_cache: bytes, workspace_bytes: int
    ) -> tuple[bytes, bytes]:
        """Builds one engine, which takes minutes.

        Args:
            graph: its weights lie beside it.
            profiles: the shapes that it is for.
            timing_cache: what an earlier build measured, or nothing.
            workspace_bytes: the most memory of the GPU that a layer may take for itself.

        Returns:
            The engine, and the timing cache with what was measured now.

        Raises:
            DeviceError: if TensorRT does not take the graph, or fails.
        """
