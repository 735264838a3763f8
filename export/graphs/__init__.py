"""The bundle's ONNX graphs, built from the model's facts alone; their weights stay in the weights file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from internvl_rt.bundle.graph_sets import DEFAULT_GRAPH_SET, GRAPH_SETS, GraphSet
from internvl_rt.bundle.graph_sets import Dialect as DialectName
from internvl_rt.bundle.manifest import Manifest
from internvl_rt.bundle.tensors import LM_HEAD, TensorPlace
from internvl_rt.errors import CheckpointError
from internvl_rt.export.graphs.dialect import Dialect
from internvl_rt.export.graphs.flash import build_flash
from internvl_rt.export.graphs.graph import COMPUTE_TYPE, Graph
from internvl_rt.export.graphs.llm import build_llm
from internvl_rt.export.graphs.onnx24 import Onnx24
from internvl_rt.export.graphs.ort import Ort
from internvl_rt.export.graphs.projector import build_projector
from internvl_rt.export.graphs.trt10 import Trt10
from internvl_rt.export.graphs.vit import build_vit

__all__ = ["choose_graph_sets", "write_graphs"]

_DIALECTS: dict[DialectName, type[Dialect]] = {"onnx24": Onnx24, "ort": Ort, "trt10": Trt10}


def choose_graph_sets(names: str | Sequence[str]) -> tuple[GraphSet, ...]:
    """The graph sets of one name or several, such as ``ort`` or ``("onnx24", "trt10-fp16")``.

    Raises:
        CheckpointError: if there is no such set; the message lists those that there are.
    """
    if not isinstance(names, (str, list, tuple)) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(
            f"dialect={names!r} is neither one of {', '.join(GRAPH_SETS)} nor a list of them."
        )
    chosen = dict.fromkeys([names] if isinstance(names, str) else names)
    for name in chosen:
        if name not in GRAPH_SETS:
            raise CheckpointError(f"dialect={name!r} is not one of {', '.join(GRAPH_SETS)}.")
    return tuple(GRAPH_SETS[name] for name in chosen)


def write_graphs(
    folder: Path,
    manifest: Manifest,
    places: Mapping[str, TensorPlace],
    sets: Sequence[GraphSet] = (DEFAULT_GRAPH_SET,),
    *,
    capacity: int | None = None,
    shuffles: bool = False,
) -> None:
    """Writes the graphs of a model: of each set the ViT, the projector and the language model.

    Args:
        folder: the bundle's folder, where the weights file lies too.
        manifest: the model's facts.
        places: where every stored tensor lies in the weights file.
        sets: which dialects, and in which floating-point types they compute.
        capacity: tokens that the KV caches of the language model hold, fixed: TensorRT asks for that. None
            leaves it to the caller of the graph.
        shuffles: let the projector begin with the pixel shuffle, at the ViT's output.

    Raises:
        OSError: if a file cannot be written.
    """
    for graphs in sets:
        made, compute = _DIALECTS[graphs.dialect], COMPUTE_TYPE[graphs.compute]
        vit, projector = (Graph(name, places, made.VISION_OPSET) for name in ("vit", "projector"))
        llm = Graph("llm", places, made.LANGUAGE_OPSET)
        scales = manifest.precision.input_scales
        build_vit(made(vit, compute, input_scales=scales), manifest.vision)
        build_projector(made(projector, compute), manifest, shuffles)
        build_llm(made(llm, compute, capacity), manifest.llm, tied=LM_HEAD not in places)
        vit.write(folder / graphs.file("vit"))
        projector.write(folder / graphs.file("projector"))
        llm.write(folder / graphs.file("llm"))
        if manifest.flash is not None:
            flash = Graph("flash", places, made.VISION_OPSET)
            build_flash(made(flash, compute), manifest)
            flash.write(folder / graphs.file("flash"))
