"""``flash.onnx``: how compressible a tile is, and what it is in a quarter of the tokens (InternVL3.5-Flash).

A learned query looks at the tower's patches four times (the three later times through the same attention),
four residual blocks judge what it saw, and a softmax over two says how well the tile does with fewer tokens.
The other output is the tile with a coarser pixel shuffle and a projector of its own, mlp2.
"""

from __future__ import annotations

from internvl_rt.bundle.graph_ports import COMPRESSED, HIDDEN, SCORES
from internvl_rt.bundle.manifest import Manifest
from internvl_rt.bundle.tensors import FLASH_BLOCKS, FLASH_QUERY
from internvl_rt.export.graphs.dialect import Dialect

NORM_EPS = 1e-5
"""torch's default, which all of these layers have."""

LOOKS = 4


def build_flash(ops: Dialect, manifest: Manifest) -> None:
    """Adds the router and the projector of compressed tiles to a graph.

    The input is hidden [tiles, 1 + patches, C], the outputs are scores [tiles] and compressed
    [tiles, patches / downsample^2, H].
    """
    graph, vision, flash = ops.graph, manifest.vision, manifest.flash
    assert flash is not None
    c, grid = vision.hidden_size, vision.grid
    hidden = graph.input(HIDDEN, ops.compute, ["tiles", 1 + vision.patches, c])
    ends = [graph.integers([value]) for value in (1, 1 + vision.patches, 1)]
    patches = graph.op("Slice", [hidden, *ends], "flash.patches")  # without the class token

    score = _judge(ops, _look(ops, manifest, patches))
    first = graph.op("Gather", [score, graph.integers([0])], "flash.first", axis=1)
    graph.reshape(first, [-1], SCORES)
    graph.output(SCORES, ops.compute, ["tiles"])

    k, side = flash.downsample, grid // flash.downsample
    x = graph.reshape(patches, [-1, side, k, side, k * c], "flash.blocks")
    x = graph.op("Transpose", [x], "flash.shuffled", perm=[0, 1, 3, 2, 4])
    x = graph.reshape(x, [-1, k * k * c], "flash.shuffled.tokens")
    x = ops.norm(x, "flash.projector.norm", NORM_EPS, "layer_norm")
    x = ops.gelu(ops.linear(x, "flash.projector.fc1", bias=True), "flash.projector.gelu1")
    x = ops.gelu(ops.linear(x, "flash.projector.fc2", bias=True), "flash.projector.gelu2")
    x = ops.linear(x, "flash.projector.fc3", bias=True)
    shape = [side * side, manifest.llm.hidden_size]
    graph.reshape(x, [-1, *shape], COMPRESSED)
    graph.output(COMPRESSED, ops.compute, ["tiles", *shape])


def _look(ops: Dialect, manifest: Manifest, patches: str) -> str:
    """What the query sees: [tiles, P, C] to [tiles, C]."""
    graph, vision, flash = ops.graph, manifest.vision, manifest.flash
    assert flash is not None
    c, p, heads = vision.hidden_size, vision.patches, flash.heads
    flat = graph.reshape(patches, [-1, c], "flash.patches.tokens")
    tiles = graph.op("Shape", [patches], "flash.tiles", start=0, end=1)
    shape = graph.op("Concat", [tiles, graph.integers([c])], "flash.query.shape", axis=0)
    x = graph.op("Expand", [ops.weight(FLASH_QUERY), shape], "flash.query.tiles")
    scale = graph.scalar((c // heads) ** -0.5, ops.compute, "flash.scale")

    def project(value: str, layer: str, name: str) -> str:
        # Not the dialect's own product: the weights of an attention are multiplied several times.
        weights = [ops.weight(f"{layer}.{parameter}") for parameter in ("weight", "bias")]
        return graph.op("Gemm", [value, *weights], name, transB=1)

    seen: dict[int, tuple[str, str]] = {}
    for look in range(LOOKS):
        layer = min(look, 1) + 1
        attention, at = f"flash.attention{layer}", f"flash.look{look}"
        if layer not in seen:
            qkv = project(flat, f"{attention}.qkv", f"{attention}.patches")
            parts = [f"{attention}.patches.{name}" for name in ("queries", "keys", "values")]
            _, keys, values = graph.split(qkv, [c] * 3, parts)
            by_head = [graph.reshape(v, [-1, p, heads, c // heads], f"{v}.by_head") for v in (keys, values)]
            seen[layer] = (
                graph.op("Transpose", [by_head[0]], f"{keys}.heads", perm=[0, 2, 3, 1]),
                graph.op("Transpose", [by_head[1]], f"{values}.heads", perm=[0, 2, 1, 3]),
            )
        keys, values = seen[layer]
        qkv = project(x, f"{attention}.qkv", f"{at}.qkv")
        query, *_ = graph.split(qkv, [c] * 3, [f"{at}.{name}" for name in ("query", "key", "value")])
        query = graph.reshape(query, [-1, heads, 1, c // heads], f"{at}.query.heads")
        weights = ops.multiply(graph.op("MatMul", [query, keys], f"{at}.products"), scale, f"{at}.scaled")
        weights = graph.op("Softmax", [weights], f"{at}.weights", axis=-1)
        x = graph.reshape(graph.op("MatMul", [weights, values], f"{at}.seen"), [-1, c], f"{at}.merged")
        x = _norm(ops, project(x, f"{attention}.proj", f"{at}.proj"), f"flash.norm{layer}", f"{at}.norm")
    return x


def _judge(ops: Dialect, x: str) -> str:
    """[tiles, C] to the probabilities of fewer and of all tokens, [tiles, 2]."""
    for block in range(FLASH_BLOCKS):
        name = f"flash.blocks.{block}"
        u = ops.gelu(ops.linear(x, f"{name}.fc1", bias=True), f"{name}.gelu")
        u = ops.norm(ops.linear(u, f"{name}.fc2", bias=True), f"{name}.norm", NORM_EPS, "layer_norm")
        x = ops.add(x, u, f"{name}.residual")
    x = ops.norm(x, "flash.gate_norm", NORM_EPS, "layer_norm")
    return ops.graph.op("Softmax", [ops.linear(x, "flash.gate", bias=True)], "flash.probabilities", axis=-1)


def _norm(ops: Dialect, x: str, layer: str, name: str) -> str:
    """LayerNorm by the weights of ``layer``, which several nodes share."""
    inputs = [x, ops.weight(f"{layer}.weight"), ops.weight(f"{layer}.bias")]
    return ops.graph.op("LayerNormalization", inputs, name, axis=-1, epsilon=NORM_EPS)
