"""OpenVINO reading the ViT and the projector of the bundle."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

import numpy as np
import numpy.typing as npt
import openvino

from contestants.contestant import Work, pixel_values


class OpenVino:
    """Satisfies Contestant. It computes in bf16 by itself where the processor can."""

    stages = ("vit",)

    def __init__(self, work: Work) -> None:
        self.grid = work.tile_size // work.patch_size
        core = openvino.Core()
        settings = {"INFERENCE_NUM_THREADS": work.threads, "PERFORMANCE_HINT": "LATENCY"}

        def compiled(graph: str) -> openvino.CompiledModel:
            return core.compile_model(core.read_model(str(Path(work.bundle) / graph)), "CPU", settings)

        self.vit, self.projector = compiled("vit.onnx"), compiled("projector.onnx")
        self.pixels = pixel_values(work)

    def sample(self, stage: str) -> float:
        if stage != "vit":
            raise KeyError(stage)
        begun = perf_counter()
        self.projector([self._shuffled(self.vit([self.pixels])[0])])
        return 1e3 * (perf_counter() - begun)

    def _shuffled(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Pixel shuffle v2: [B, 1 + P, C] to [B, P / 4, 4 C]."""
        tiles, _, width = features.shape
        half = self.grid // 2
        blocks = features[:, 1:].reshape(tiles, half, 2, half, 2, width).transpose(0, 1, 3, 2, 4, 5)
        return np.ascontiguousarray(blocks).reshape(tiles, half * half, 4 * width)
