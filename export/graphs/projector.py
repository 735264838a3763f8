"""``projector.onnx``: LayerNorm, Linear, GELU, Linear (mlp1), after the pixel shuffle."""

from __future__ import annotations

from internvl_rt.bundle.graph_ports import FEATURES, HIDDEN, SHUFFLED
from internvl_rt.bundle.manifest import Manifest
from internvl_rt.export.graphs.dialect import Dialect
from internvl_rt.export.graphs.graph import Shape


def build_projector(ops: Dialect, manifest: Manifest, shuffles: bool = False) -> None:
    """Adds the projector to a graph: shuffled [tiles, T, downsample^2 * C] to features [tiles, T, H].

    Args:
        ops: the dialect and the graph.
        manifest: the facts.
        shuffles: let the graph begin with the pixel shuffle, at the ViT's hidden [tiles, 1 + patches, C].
    """
    graph = ops.graph
    tokens, hidden = manifest.tokens_per_tile, manifest.llm.hidden_size
    inner = manifest.vision.hidden_size * manifest.projector.downsample**2
    shape: Shape = ["tiles", tokens, inner]
    x = _shuffled(ops, manifest) if shuffles else graph.input(SHUFFLED, ops.compute, shape)
    x = graph.reshape(x, [-1, inner], "projector.tokens")
    x = ops.norm(x, "projector.norm", manifest.projector.norm_eps, "layer_norm")
    x = ops.gelu(ops.linear(x, "projector.fc1", bias=True), "projector.gelu")
    x = ops.linear(x, "projector.fc2", bias=True)
    graph.reshape(x, [-1, tokens, hidden], FEATURES)
    graph.output(FEATURES, ops.compute, ["tiles", tokens, hidden])


def _shuffled(ops: Dialect, manifest: Manifest) -> str:
    """The patches of each block, row by row, become the channels of one token.

    Tokens are in row order (v2), or in column order (v1, the authors' first version).
    """
    graph, vision, block = ops.graph, manifest.vision, manifest.projector.downsample
    c, side = vision.hidden_size, vision.grid // block
    x = graph.input(HIDDEN, ops.compute, ["tiles", 1 + vision.patches, c])
    bounds = [graph.integers([1]), graph.integers([1 + vision.patches]), graph.integers([1])]
    x = graph.op("Slice", [x, *bounds], "projector.patches")
    x = graph.reshape(x, [-1, side, block, side, block, c], "projector.blocks")
    order = [0, 1, 3, 2, 4, 5] if manifest.projector.pixel_shuffle == "v2" else [0, 3, 1, 2, 4, 5]
    return graph.op("Transpose", [x], "projector.shuffled", perm=order)
