"""``llm.onnx``: the decoder, from embeddings to logits, with its KV cache as inputs and outputs."""

from __future__ import annotations

from onnx import TensorProto

from internvl_rt.bundle.graph_ports import EMBEDDINGS, LOGITS, ROWS
from internvl_rt.bundle.manifest import LanguageModel
from internvl_rt.bundle.tensors import EMBED_TOKENS, LM_HEAD, llm_layer
from internvl_rt.export.graphs.dialect import Dialect
from internvl_rt.export.graphs.experts import mix_experts


def build_llm(ops: Dialect, llm: LanguageModel, tied: bool) -> None:
    """Adds the decoder to a graph; inputs and outputs are those of ``internvl_rt.bundle.graph_ports``.

    Args:
        ops: the dialect and the graph.
        llm: the facts.
        tied: the output matrix is the embedding table.
    """
    graph = ops.graph
    embeddings = graph.input(EMBEDDINGS, ops.compute, ["batch", "n", llm.hidden_size])
    ops.begin_step(llm, embeddings)
    rows = graph.input(ROWS, TensorProto.INT64, ["rows"])

    x = graph.reshape(embeddings, [-1, llm.hidden_size], "llm.tokens")
    u = ops.norm(x, llm_layer(0, "attention_norm"), llm.norm_eps)
    for layer in range(llm.layers):
        x, u = _layer(ops, llm, x, u, layer)
    # The output matrix is the largest of all: it is multiplied with wanted rows only.
    x = graph.op("Gather", [x, rows], "llm.wanted", axis=0)
    x = ops.norm(x, "llm.norm", llm.norm_eps)
    ops.project(x, EMBED_TOKENS if tied else LM_HEAD, LOGITS)
    graph.output(LOGITS, ops.compute, ["rows", llm.vocab_size])


def _layer(ops: Dialect, llm: LanguageModel, x: str, u: str, layer: int) -> tuple[str, str]:
    """The hidden states after a layer, and their norm for the next one."""

    def name(part: str) -> str:
        return llm_layer(layer, part)

    queries, keys = llm.heads * llm.head_dim, llm.kv_heads * llm.head_dim
    qkv = ops.linear(u, name("qkv"), bias=llm.qkv_bias)
    q, k, v = ops.graph.split(qkv, [queries, keys, keys], [name("q"), name("k"), name("v")])
    u = ops.linear(ops.cached_attention(llm, q, k, v, layer), name("o_proj"), bias=False)
    x, u = ops.add_norm(x, u, name("attention.residual"), name("mlp_norm"), llm.norm_eps)

    u = _feed_forward(ops, llm, u, layer) if llm.experts is None else mix_experts(ops, llm, u, layer)
    if layer + 1 == llm.layers:
        return ops.add(x, u, name("mlp.residual")), ""
    return ops.add_norm(x, u, name("mlp.residual"), llm_layer(layer + 1, "attention_norm"), llm.norm_eps)


def _feed_forward(ops: Dialect, llm: LanguageModel, u: str, layer: int) -> str:
    def name(part: str) -> str:
        return llm_layer(layer, part)

    gate_up = ops.linear(u, name("gate_up"), bias=False)
    gate, up = ops.graph.split(gate_up, [llm.intermediate_size] * 2, [name("gate"), name("up")])
    u = ops.multiply(ops.silu(gate, name("silu")), up, name("gated"))
    return ops.linear(u, name("down"), bias=False)
