"""Which TensorRT and which GPU this machine has, and what to install where it has none."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from internvl_rt.bundle.graph_sets import Dialect
from internvl_rt.engines.versions import release_of
from internvl_rt.errors import DeviceError

OLDEST = (10, 3)
"""TensorRT of JetPack 6."""
NEWEST = 11
"""The major version up to which this was written."""
ONNX24_FROM = (10, 15)
"""The first whose parser has Attention, RotaryEmbedding, RMSNormalization and TensorScatter."""

_TEGRA_RELEASE = Path("/etc/nv_tegra_release")

Board = Literal["desktop", "jetpack6", "jetpack7", "jetson"]


@dataclass(frozen=True)
class Toolkit:
    """The TensorRT that builds and runs engines, and the GPU that they are for."""

    tensorrt: str
    gpu: str
    compute_capability: tuple[int, int]
    memory_bytes: int
    """Of the GPU; on a Jetson, of the whole board."""

    @property
    def version(self) -> tuple[int, int]:
        """TensorRT's major and minor version."""
        return version_of(self.tensorrt)

    @property
    def dialect(self) -> Dialect:
        """The graphs that this TensorRT takes."""
        return "onnx24" if self.version >= ONNX24_FROM else "trt10"


def version_of(text: str) -> tuple[int, int]:
    """Major and minor of a version such as ``10.3.0.30``.

    Raises:
        DeviceError: if it is no version, or one that is not supported.
    """
    version = release_of(text)
    if not OLDEST <= version < (NEWEST + 1, 0):
        raise DeviceError(
            f"TensorRT {text[:50]} is installed; this release works with 10.3 to {NEWEST}. "
            f"{how_to_install(board())}"
        )
    return version


def board(tegra_release: Path = _TEGRA_RELEASE, kernel: str | None = None) -> Board:
    """What kind of machine this is. A Jetson names its release in a file: R36 is JetPack 6, R38 JetPack 7.

    Args:
        tegra_release: that file.
        kernel: the kernel's release; the running one's where None.
    """
    try:
        text = tegra_release.read_text(errors="replace")
    except OSError:
        return "jetson" if "tegra" in (platform.release() if kernel is None else kernel) else "desktop"
    found = re.search(r"R(\d+)", text)
    release = int(found[1]) if found else 0
    if release == 36:
        return "jetpack6"
    return "jetpack7" if release >= 38 else "jetson"


def how_to_install(kind: Board) -> str:
    """What to install for ``engine="tensorrt"``."""
    if kind == "jetpack6":
        return (
            "On JetPack 6, TensorRT 10.3 is part of the system: sudo apt install tensorrt "
            "python3-libnvinfer, use the system's Python 3.10 (python3 -m venv --system-site-packages), and "
            "pip install 'cuda-bindings<13'."
        )
    if kind == "jetpack7":
        return (
            "On JetPack 7: sudo apt install tensorrt python3-libnvinfer, use the system's Python "
            "(python3 -m venv --system-site-packages), and pip install cuda-bindings."
        )
    if kind == "jetson":
        return "On a Jetson this needs JetPack 6 or 7, which bring TensorRT 10.3 or later: update the system."
    return (
        "With an NVIDIA GPU (Ampere or later) and its driver: pip install tensorrt-cu12 'cuda-bindings<13' "
        "for CUDA 12, or pip install tensorrt-cu13 cuda-bindings for CUDA 13."
    )


def missing(what: str) -> DeviceError:
    """The error where TensorRT, CUDA's bindings or the GPU are not there."""
    return DeviceError(f"engine='tensorrt' cannot be used here: {what}. {how_to_install(board())}")
