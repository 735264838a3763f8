"""Which ONNX graphs a bundle may hold: one set per dialect and floating-point type, over the same weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from internvl_rt import _core

ALL_GRAPH_FILES = _core.GRAPH_FILES

Dialect = Literal["onnx24", "ort", "trt10"]
Compute = Literal["fp32", "fp16", "bf16"]
GraphName = Literal["vit", "projector", "llm", "flash"]

GRAPH_NAMES: tuple[GraphName, ...] = ("vit", "projector", "llm")
"""Of every model; ``flash`` is there beside them for models with a resolution router."""


@dataclass(frozen=True)
class GraphSet:
    """The three graphs of a model in one dialect, computing in one floating-point type."""

    dialect: Dialect
    """``onnx24``: standard operators of at most opset 24. ``ort``: ONNX Runtime's own operators where they
    are faster. ``trt10``: only what the ONNX parser of TensorRT 10.3 (JetPack 6) takes."""
    compute: Compute
    """The type of activations, of inputs and outputs, and of the KV cache."""

    @property
    def name(self) -> str:
        """``ort``, ``trt10-fp16``, ...: what ``export --dialect`` takes; fp32 is not spelled out."""
        return _core.graph_set_name(self.dialect, self.compute)

    def file(self, graph: GraphName) -> str:
        """The name of a graph's file: ``vit.onnx``, ``vit.trt10-fp16.onnx``."""
        return _core.graph_file(self.dialect, self.compute, graph)

    @property
    def files(self) -> tuple[str, ...]:
        """The files of all three graphs."""
        return tuple(self.file(graph) for graph in GRAPH_NAMES)


GRAPH_SETS: dict[str, GraphSet] = {
    made.name: made for made in (GraphSet(dialect, compute) for dialect, compute in _core.GRAPH_SETS)
}
"""Every set by name. ONNX Runtime has no bfloat16 kernels for the operators of ``ort``."""

DEFAULT_GRAPH_SET = GRAPH_SETS["onnx24"]
"""The one whose files have the plain names."""


def complete_sets(files: Iterable[str]) -> tuple[GraphSet, ...]:
    """The sets whose three graphs are all among the names ``files``."""
    names = set(files)
    return tuple(made for made in GRAPH_SETS.values() if names.issuperset(made.files))
