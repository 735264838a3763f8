"""The bundle's ONNX graphs, built from the model's facts alone; their weights stay in the weights file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from internvl_rt.bundle.manifest import LLM_GRAPH, PROJECTOR_GRAPH, VIT_GRAPH, Manifest
from internvl_rt.bundle.tensors import LM_HEAD
from internvl_rt.bundle.weights import TensorPlace
from internvl_rt.export.graphs.graph import Graph
from internvl_rt.export.graphs.llm import build_llm
from internvl_rt.export.graphs.onnx24 import Onnx24
from internvl_rt.export.graphs.projector import build_projector
from internvl_rt.export.graphs.vit import build_vit

__all__ = ["write_graphs"]

VISION_OPSET = 23
"""The lowest with Attention and RMSNormalization: ONNX Runtime 1.23, the last for Python 3.10, takes it."""
LANGUAGE_OPSET = 24
"""The lowest with TensorScatter."""


def write_graphs(folder: Path, manifest: Manifest, places: Mapping[str, TensorPlace]) -> None:
    """Writes ``vit.onnx``, ``projector.onnx`` and ``llm.onnx`` in the dialect ``onnx24``, computing in fp32.

    Args:
        folder: the bundle's folder, where the weights file lies too.
        manifest: the model's facts.
        places: where every stored tensor lies in the weights file.

    Raises:
        OSError: if a file cannot be written.
    """
    vit, projector = (Graph(name, places, VISION_OPSET) for name in ("vit", "projector"))
    llm = Graph("llm", places, LANGUAGE_OPSET)
    build_vit(Onnx24(vit), manifest.vision)
    build_projector(Onnx24(projector), manifest)
    build_llm(Onnx24(llm), manifest.llm, tied=LM_HEAD not in places)
    vit.write(folder / VIT_GRAPH)
    projector.write(folder / PROJECTOR_GRAPH)
    llm.write(folder / LLM_GRAPH)
