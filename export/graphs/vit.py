"""``vit.onnx``: InternViT, from normalised pixels to the last layer's hidden states."""

from __future__ import annotations

from internvl_rt.bundle.graph_ports import HIDDEN, PIXEL_VALUES
from internvl_rt.bundle.manifest import Vision
from internvl_rt.bundle.tensors import (
    CLASS_EMBEDDING,
    PATCH_EMBEDDING,
    PATCH_EMBEDDING_BIAS,
    POSITION_EMBEDDING,
    vit_layer,
)
from internvl_rt.export.graphs.dialect import Dialect


def build_vit(ops: Dialect, vision: Vision) -> None:
    """Adds the tower to a graph: pixel_values [tiles, 3, S, S] to hidden [tiles, 1 + patches, C].

    There is no norm after the last layer.
    """
    graph, c = ops.graph, vision.hidden_size
    size = vision.image_size
    pixels = graph.input(PIXEL_VALUES, ops.compute, ["tiles", 3, size, size])
    x = graph.reshape(_embed(ops, vision, pixels), [-1, c], "vit.embedding.tokens")
    u = ops.norm(x, vit_layer(0, "norm1"), vision.norm_eps, vision.norm)
    for layer in range(vision.layers):
        x, u = _layer(ops, vision, x, u, layer)
    graph.reshape(x, [-1, 1 + vision.patches, c], HIDDEN)
    graph.output(HIDDEN, ops.compute, ["tiles", 1 + vision.patches, c])


def _embed(ops: Dialect, vision: Vision, pixels: str) -> str:
    """Patches, the class token before them, and positions added: [tiles, 1 + patches, C]."""
    graph, c = ops.graph, vision.hidden_size
    x = ops.convolve(pixels, PATCH_EMBEDDING, PATCH_EMBEDDING_BIAS, "vit.patch_embedding", vision.patch_size)
    x = graph.reshape(x, [0, c, vision.patches], "vit.patches.channels_first")
    x = graph.op("Transpose", [x], "vit.patches", perm=[0, 2, 1])
    tiles = graph.op("Shape", [pixels], "vit.tiles", start=0, end=1)
    shape = graph.op("Concat", [tiles, graph.integers([1, c])], "vit.class_token.shape", axis=0)
    token = graph.op("Expand", [ops.weight(CLASS_EMBEDDING), shape], "vit.class_token")
    x = graph.op("Concat", [token, x], "vit.tokens", axis=1)
    return ops.add(x, ops.weight(POSITION_EMBEDDING), "vit.embedding")


def _layer(ops: Dialect, vision: Vision, x: str, u: str, layer: int) -> tuple[str, str]:
    """The hidden states after a layer, and their norm for the next one."""

    def name(part: str) -> str:
        return vit_layer(layer, part)

    u = ops.linear(_attend(ops, vision, u, layer), name("proj"), bias=True)
    u = ops.multiply(u, ops.weight(name("ls1")), name("attention.scaled"))
    x, u = ops.add_norm(x, u, name("attention.residual"), name("norm2"), vision.norm_eps, vision.norm)

    u = ops.gelu(ops.linear(u, name("fc1"), bias=True), name("gelu"))
    u = ops.linear(u, name("fc2"), bias=True)
    u = ops.multiply(u, ops.weight(name("ls2")), name("mlp.scaled"))
    if layer + 1 == vision.layers:
        return ops.add(x, u, name("mlp.residual")), ""
    norm = vit_layer(layer + 1, "norm1")
    return ops.add_norm(x, u, name("mlp.residual"), norm, vision.norm_eps, vision.norm)


def _attend(ops: Dialect, vision: Vision, u: str, layer: int) -> str:
    """Attention over the tokens of each tile: [tokens, C] to [tokens, C]."""
    graph, c = ops.graph, vision.hidden_size

    def name(part: str) -> str:
        return vit_layer(layer, part)

    qkv = ops.linear(u, name("qkv"), bias=vision.qkv_bias)
    q, k, v = graph.split(qkv, [c, c, c], [name("q"), name("k"), name("v")])
    if vision.qk_norm:
        # Over all channels, before they are split into heads.
        q = ops.norm(q, name("q_norm"), vision.norm_eps)
        k = ops.norm(k, name("k_norm"), vision.norm_eps)
    return ops.tile_attention(vision, q, k, v, name("attention"))
