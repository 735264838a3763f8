"""``llm.onnx``: the decoder, from embeddings to logits, with its KV cache as inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import TensorProto

from internvl_rt.bundle.graph_ports import (
    COS,
    EMBEDDINGS,
    LOGITS,
    MASK,
    ROWS,
    SIN,
    WRITE_INDICES,
    cache_ports,
)
from internvl_rt.bundle.manifest import LanguageModel
from internvl_rt.bundle.tensors import EMBED_TOKENS, LM_HEAD, llm_layer
from internvl_rt.export.graphs.graph import Shape
from internvl_rt.export.graphs.onnx24 import Onnx24


@dataclass(frozen=True)
class _Step:
    """What every layer shares: the names of inputs and of computed shapes."""

    cos: str
    sin: str
    mask: str
    write_indices: str
    query_shape: str
    """[batch, n, heads, head_dim]"""
    key_shape: str
    """[batch, n, kv_heads, head_dim]"""


def build_llm(ops: Onnx24, llm: LanguageModel, tied: bool) -> None:
    """Adds the decoder to a graph; inputs and outputs are those of ``internvl_rt.bundle.graph_ports``.

    Args:
        ops: the dialect and the graph.
        llm: the facts.
        tied: the output matrix is the embedding table.
    """
    graph = ops.graph
    embeddings = graph.input(EMBEDDINGS, ops.compute, ["batch", "n", llm.hidden_size])
    step = _step(ops, llm, embeddings)
    rows = graph.input(ROWS, TensorProto.INT64, ["rows"])

    x = graph.reshape(embeddings, [-1, llm.hidden_size], "llm.tokens")
    for layer in range(llm.layers):
        x = _layer(ops, llm, step, x, layer)
    # The output matrix is the largest of all: it is multiplied with wanted rows only.
    x = graph.op("Gather", [x, rows], "llm.wanted", axis=0)
    x = ops.rms_norm(x, "llm.norm", llm.norm_eps)
    output = ops.weight(EMBED_TOKENS if tied else LM_HEAD)
    graph.op("Gemm", [x, output], LOGITS, transB=1)
    graph.output(LOGITS, ops.compute, ["rows", llm.vocab_size])


def _step(ops: Onnx24, llm: LanguageModel, embeddings: str) -> _Step:
    graph = ops.graph
    length = graph.op("Shape", [embeddings], "llm.length", start=0, end=2)

    def head_shape(name: str, heads: int) -> str:
        # The heads are spelled out: TensorRT refuses attention over a number of heads that it cannot see.
        return graph.op("Concat", [length, graph.integers([heads, llm.head_dim])], name, axis=0)

    return _Step(
        cos=graph.input(COS, ops.compute, ["batch", "n", llm.head_dim // 2]),
        sin=graph.input(SIN, ops.compute, ["batch", "n", llm.head_dim // 2]),
        mask=graph.input(MASK, TensorProto.BOOL, ["batch", 1, "n", "capacity"]),
        write_indices=graph.input(WRITE_INDICES, TensorProto.INT64, ["batch"]),
        query_shape=head_shape("llm.query_shape", llm.heads),
        key_shape=head_shape("llm.key_shape", llm.kv_heads),
    )


def _layer(ops: Onnx24, llm: LanguageModel, step: _Step, x: str, layer: int) -> str:
    def name(part: str) -> str:
        return llm_layer(layer, part)

    u = ops.rms_norm(x, name("attention_norm"), llm.norm_eps)
    u = ops.linear(_attend(ops, llm, step, u, layer), name("o_proj"), bias=False)
    x = ops.add(x, u, name("attention.residual"))

    u = ops.rms_norm(x, name("mlp_norm"), llm.norm_eps)
    gate_up = ops.linear(u, name("gate_up"), bias=False)
    gate, up = ops.graph.split(gate_up, [llm.intermediate_size] * 2, [name("gate"), name("up")])
    u = ops.multiply(ops.silu(gate, name("silu")), up, name("gated"))
    return ops.add(x, ops.linear(u, name("down"), bias=False), name("mlp.residual"))


def _attend(ops: Onnx24, llm: LanguageModel, step: _Step, u: str, layer: int) -> str:
    """Attention of the new positions over the whole cache: [tokens, H] to [tokens, heads * head_dim]."""
    graph = ops.graph

    def name(part: str) -> str:
        return llm_layer(layer, part)

    queries, keys = llm.heads * llm.head_dim, llm.kv_heads * llm.head_dim
    qkv = ops.linear(u, name("qkv"), bias=llm.qkv_bias)
    q, k, v = graph.split(qkv, [queries, keys, keys], [name("q"), name("k"), name("v")])
    q = _by_head(ops, q, step.query_shape)
    k, v = (_by_head(ops, value, step.key_shape) for value in (k, v))
    if llm.qk_norm:
        # Over each head's channels, before rope.
        q = ops.rms_norm(q, name("q_norm"), llm.norm_eps)
        k = ops.rms_norm(k, name("k_norm"), llm.norm_eps)
    q = ops.rotate(q, step.cos, step.sin, name("q.rotated"))
    k = ops.rotate(k, step.cos, step.sin, name("k.rotated"))

    shape: Shape = ["batch", llm.kv_heads, "capacity", llm.head_dim]
    updated = []
    for new, (port_in, port_out) in zip((k, v), cache_ports(layer), strict=True):
        cache = graph.input(port_in, ops.compute, shape)
        updated.append(ops.update_cache(cache, new, step.write_indices, port_out))
        graph.output(port_out, ops.compute, shape)
    x = ops.attention(q, updated[0], updated[1], name("attention"), mask=step.mask)
    x = graph.op("Transpose", [x], name("attention.tokens"), perm=[0, 2, 1, 3])
    return graph.reshape(x, [-1, queries], name("attention.merged"))


def _by_head(ops: Onnx24, value: str, shape: str) -> str:
    """[tokens, heads * head_dim] to [batch, heads, n, head_dim]."""
    split = ops.graph.op("Reshape", [value, shape], f"{value}.by_head")
    return ops.graph.op("Transpose", [split], f"{value}.heads", perm=[0, 2, 1, 3])
