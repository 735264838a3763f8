"""``projector.onnx``: LayerNorm, Linear, GELU, Linear (mlp1), after the pixel shuffle."""

from __future__ import annotations

from internvl_rt.bundle.graph_ports import FEATURES, SHUFFLED
from internvl_rt.bundle.manifest import Manifest
from internvl_rt.export.graphs.dialect import Dialect


def build_projector(ops: Dialect, manifest: Manifest) -> None:
    """Adds the projector to a graph: shuffled [tiles, T, downsample^2 * C] to features [tiles, T, H]."""
    graph = ops.graph
    tokens, hidden = manifest.tokens_per_tile, manifest.llm.hidden_size
    inner = manifest.vision.hidden_size * manifest.projector.downsample**2
    x = graph.input(SHUFFLED, ops.compute, ["tiles", tokens, inner])
    x = graph.reshape(x, [-1, inner], "projector.tokens")
    x = ops.norm(x, "projector.norm", manifest.projector.norm_eps, "layer_norm")
    x = ops.gelu(ops.linear(x, "projector.fc1", bias=True), "projector.gelu")
    x = ops.linear(x, "projector.fc2", bias=True)
    graph.reshape(x, [-1, tokens, hidden], FEATURES)
    graph.output(FEATURES, ops.compute, ["tiles", tokens, hidden])
