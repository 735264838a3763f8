"""The MLP of a mixture-of-experts layer as a graph: only the chosen experts are computed.

A Loop runs once for each expert that any token chose: it gathers that expert's matrices and its tokens, and
adds what comes out to where the tokens stand. Experts come in the order of their numbers, so that the sum of
a token does not depend on the others.

Unique and sums by ScatterND are none of TensorRT's operators: there, these models do not run, in any dialect.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto

from internvl_rt.bundle.manifest import LanguageModel
from internvl_rt.bundle.tensors import INT4_BLOCK, SCALES_SUFFIX, llm_layer
from internvl_rt.export.graphs.dialect import Dialect
from internvl_rt.export.graphs.graph import ELEMENT_TYPE, Graph


def mix_experts(ops: Dialect, llm: LanguageModel, u: str, layer: int) -> str:
    """What the experts of a layer make of u, [tokens, H] to [tokens, H].

    Args:
        ops: the dialect and the graph.
        llm: the facts; its ``experts`` are not None.
        u: the normalised hidden states.
        layer: the layer's number.
    """
    graph = ops.graph
    graph.require_opset(18)  # BitwiseAnd
    router = llm_layer(layer, "router")
    chosen, shares = _route(ops, llm, u, router)
    everyone = graph.reshape(chosen, [-1], f"{router}.everyone")
    used = graph.op("Unique", [everyone], f"{router}.used", sorted=1)
    length = graph.op("Shape", [used], f"{router}.length")
    trips = graph.op("Squeeze", [length], f"{router}.trips")
    nothing = graph.op("ConstantOfShape", [graph.op("Shape", [u], f"{router}.shape")], f"{router}.nothing")
    body = _one_expert(ops, llm, u, layer, used, chosen, shares)
    total = graph.op("Loop", [trips, "", nothing], llm_layer(layer, "experts"), body=body)
    return _cast(graph, total, TensorProto.FLOAT, ops.compute, llm_layer(layer, "experts.narrow"))


def _route(ops: Dialect, llm: LanguageModel, u: str, router: str) -> tuple[str, str]:
    """The experts of every token, int64 [tokens, chosen], and their shares of the result, float32 likewise.

    Computed in float32 whatever the rest is: a choice that rounding turns is another MLP.
    """
    graph, experts = ops.graph, llm.experts
    assert experts is not None
    wide = _cast(graph, u, ops.compute, TensorProto.FLOAT, f"{router}.input")
    logits = graph.op("Gemm", [wide, graph.stored(f"{router}.weight")], router, transB=1)
    probabilities = graph.op("Softmax", [logits], f"{router}.probabilities", axis=-1)
    shares, chosen = f"{router}.shares", f"{router}.chosen"
    graph.op(
        "TopK",
        [probabilities, graph.integers([experts.chosen])],
        f"{router}.best",
        outputs=[shares, chosen],
        axis=-1,
    )
    if experts.normalise:
        total = graph.op("ReduceSum", [shares, graph.integers([-1])], f"{router}.total", keepdims=1)
        shares = graph.op("Div", [shares, total], f"{router}.normalised")
    return chosen, shares


def _one_expert(
    ops: Dialect, llm: LanguageModel, u: str, layer: int, used: str, chosen: str, shares: str
) -> onnx.GraphProto:
    """The body of the loop: adds what one expert makes of its tokens."""

    def name(part: str) -> str:
        return llm_layer(layer, f"expert.{part}")

    body = ops.graph.body(name("body"))
    inner = type(ops)(body, ops.compute)
    number = body.input(name("number"), TensorProto.INT64, [])
    going = body.input(name("going"), TensorProto.BOOL, [])
    total = body.input(name("total"), TensorProto.FLOAT, ["tokens", llm.hidden_size])

    expert = body.op("Gather", [used, number], name("id"), axis=0)
    places = body.op("NonZero", [body.op("Equal", [chosen, expert], name("is_chosen"))], name("places"))
    pairs = body.op("Transpose", [places], name("pairs"), perm=[1, 0])
    share = body.op("GatherND", [shares, pairs], name("share"))
    rows = body.op("Gather", [places, body.integers([0])], name("row"), axis=0)
    rows = body.reshape(rows, [-1], name("rows"))

    x = body.op("Gather", [u, rows], name("tokens"), axis=0)
    width = llm.intermediate_size
    weight = _matrix(inner, llm, layer, "gate_up", expert, (2 * width, llm.hidden_size))
    gate_up = body.op("Gemm", [x, weight], name("gate_up"), transB=1)
    gate, up = body.split(gate_up, [width, width], [name("gate"), name("up")])
    gated = inner.multiply(inner.silu(gate, name("silu")), up, name("gated"))
    weight = _matrix(inner, llm, layer, "down", expert, (llm.hidden_size, width))
    result = body.op("Gemm", [gated, weight], name("down"), transB=1)
    result = _cast(body, result, ops.compute, TensorProto.FLOAT, name("down.wide"))
    share = body.op("Unsqueeze", [share, body.integers([-1])], name("share.column"))
    result = inner.multiply(result, share, name("result"))

    rows = body.op("Unsqueeze", [rows, body.integers([-1])], name("rows.column"))
    body.op("ScatterND", [total, rows, result], name("sum"), reduction="add")
    body.op("Identity", [going], name("go_on"))
    body.output(name("go_on"), TensorProto.BOOL, [])
    body.output(name("sum"), TensorProto.FLOAT, ["tokens", llm.hidden_size])
    return body.as_body()


def _cast(graph: Graph, value: str, element_type: int, wanted: int, name: str) -> str:
    return value if element_type == wanted else graph.op("Cast", [value], name, to=wanted)


def _matrix(
    ops: Dialect, llm: LanguageModel, layer: int, which: str, expert: str, shape: tuple[int, int]
) -> str:
    """One expert's matrix in the compute type. Only this one is read, in the type that it is stored in."""
    graph, (n, k) = ops.graph, shape
    assert llm.experts is not None
    count = llm.experts.count
    stored = llm_layer(layer, f"experts.{which}.weight")
    made = llm_layer(layer, f"expert.{which}.weight")
    kind = graph.stored_type(stored)
    if kind == "int4":
        return _int4_matrix(ops, stored, made, expert, (count, n, k))
    taken = graph.op("Gather", [graph.stored(stored, (count, n, k)), expert], f"{made}.stored", axis=0)
    if kind == "int8":
        scales = _scales(ops, stored, made, expert, (count, n))
        return graph.op("DequantizeLinear", [taken, scales], made, axis=0)
    return _cast(graph, taken, ELEMENT_TYPE[kind], ops.compute, made)


def _int4_matrix(ops: Dialect, stored: str, made: str, expert: str, shape: tuple[int, int, int]) -> str:
    """As :func:`_matrix`. No Gather takes int4, so that the nibbles are taken apart here."""
    graph, (count, n, k) = ops.graph, shape
    packed = graph.op("Gather", [graph.stored_bytes(stored, (count, n, k // 2)), expert], f"{made}.packed")
    low = graph.op("BitwiseAnd", [packed, _nibble(graph, 15)], f"{made}.low")
    high = graph.op("BitShift", [packed, _nibble(graph, 4)], f"{made}.high", direction="RIGHT")
    last = graph.integers([-1])
    halves = [graph.op("Unsqueeze", [half, last], f"{half}.column") for half in (low, high)]
    nibbles = graph.op("Concat", halves, f"{made}.nibbles", axis=-1)
    blocks = graph.reshape(nibbles, [n, k // INT4_BLOCK, INT4_BLOCK], f"{made}.blocks")
    # Two's complement of four bits: x XOR 8, then minus 8.
    turned = graph.op("BitwiseXor", [blocks, _nibble(graph, 8)], f"{made}.turned")
    wide = graph.op("Cast", [turned], f"{made}.wide", to=ops.compute)
    values = graph.op("Sub", [wide, graph.scalar(8, ops.compute, "eight")], f"{made}.values")
    scales = _scales(ops, stored, made, expert, (count, n, k // INT4_BLOCK))
    columns = graph.op("Unsqueeze", [scales, last], f"{made}.scales.column")
    return graph.reshape(ops.multiply(values, columns, f"{made}.scaled"), [n, k], made)


def _nibble(graph: Graph, value: int) -> str:
    return graph.scalar(value, TensorProto.UINT8, f"nibble.{value}")


def _scales(ops: Dialect, stored: str, made: str, expert: str, shape: tuple[int, ...]) -> str:
    graph: Graph = ops.graph
    name = stored + SCALES_SUFFIX
    scales = graph.op("Gather", [graph.stored(name, shape), expert], f"{made}.scales", axis=0)
    return _cast(graph, scales, ELEMENT_TYPE[graph.stored_type(name)], ops.compute, f"{made}.scales.cast")
