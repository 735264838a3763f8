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
from internvl_rt.export.graphs.onnx24 import Onnx24


def build_vit(ops: Onnx24, vision: Vision) -> None:
    """Adds the tower to a graph: pixel_values [tiles, 3, S, S] to hidden [tiles, 1 + patches, C].

    There is no norm after the last layer.
    """
    graph, c = ops.graph, vision.hidden_size
    size = vision.image_size
    pixels = graph.input(PIXEL_VALUES, ops.compute, ["tiles", 3, size, size])
    x = graph.reshape(_embed(ops, vision, pixels), [-1, c], "vit.embedding.tokens")
    for layer in range(vision.layers):
        x = _layer(ops, vision, x, layer)
    graph.reshape(x, [-1, 1 + vision.patches, c], HIDDEN)
    graph.output(HIDDEN, ops.compute, ["tiles", 1 + vision.patches, c])


def _embed(ops: Onnx24, vision: Vision, pixels: str) -> str:
    """Patches, the class token before them, and positions added: [tiles, 1 + patches, C]."""
    graph, c = ops.graph, vision.hidden_size
    x = graph.op(
        "Conv",
        [pixels, ops.weight(PATCH_EMBEDDING), ops.weight(PATCH_EMBEDDING_BIAS)],
        "vit.patch_embedding",
        kernel_shape=[vision.patch_size] * 2,
        strides=[vision.patch_size] * 2,
    )
    x = graph.reshape(x, [0, c, vision.patches], "vit.patches.channels_first")
    x = graph.op("Transpose", [x], "vit.patches", perm=[0, 2, 1])
    tiles = graph.op("Shape", [pixels], "vit.tiles", start=0, end=1)
    shape = graph.op("Concat", [tiles, graph.integers([1, c])], "vit.class_token.shape", axis=0)
    token = graph.op("Expand", [ops.weight(CLASS_EMBEDDING), shape], "vit.class_token")
    x = graph.op("Concat", [token, x], "vit.tokens", axis=1)
    return ops.add(x, ops.weight(POSITION_EMBEDDING), "vit.embedding")


def _layer(ops: Onnx24, vision: Vision, x: str, layer: int) -> str:
    def name(part: str) -> str:
        return vit_layer(layer, part)

    u = _norm(ops, vision, x, name("norm1"))
    u = ops.linear(_attend(ops, vision, u, layer), name("proj"), bias=True)
    u = ops.multiply(u, ops.weight(name("ls1")), name("attention.scaled"))
    x = ops.add(x, u, name("attention.residual"))

    u = _norm(ops, vision, x, name("norm2"))
    u = ops.gelu(ops.linear(u, name("fc1"), bias=True), name("gelu"))
    u = ops.linear(u, name("fc2"), bias=True)
    u = ops.multiply(u, ops.weight(name("ls2")), name("mlp.scaled"))
    return ops.add(x, u, name("mlp.residual"))


def _attend(ops: Onnx24, vision: Vision, u: str, layer: int) -> str:
    """Attention over the tokens of each tile: [tokens, C] to [tokens, C]."""
    graph, c = ops.graph, vision.hidden_size

    def name(part: str) -> str:
        return vit_layer(layer, part)

    qkv = ops.linear(u, name("qkv"), bias=vision.qkv_bias)
    q, k, v = graph.split(qkv, [c, c, c], [name("q"), name("k"), name("v")])
    if vision.qk_norm:
        # Over all channels, before they are split into heads.
        q = ops.rms_norm(q, name("q_norm"), vision.norm_eps)
        k = ops.rms_norm(k, name("k_norm"), vision.norm_eps)
    heads = []
    for value in (q, k, v):
        split = graph.reshape(
            value, [-1, 1 + vision.patches, vision.heads, vision.head_dim], f"{value}.by_head"
        )
        heads.append(graph.op("Transpose", [split], f"{value}.heads", perm=[0, 2, 1, 3]))
    x = ops.attention(heads[0], heads[1], heads[2], name("attention"))
    x = graph.op("Transpose", [x], name("attention.tokens"), perm=[0, 2, 1, 3])
    return graph.reshape(x, [-1, c], name("attention.merged"))


def _norm(ops: Onnx24, vision: Vision, x: str, name: str) -> str:
    norm = ops.layer_norm if vision.norm == "layer_norm" else ops.rms_norm
    return norm(x, name, vision.norm_eps)
