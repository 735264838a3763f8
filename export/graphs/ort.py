"""The dialect ``ort``: ONNX Runtime's own operators where they are faster, on its CPU and CUDA providers.

Integer weights stay integers in memory (MatMulNBits), queries look at the filled part of the cache only
(GroupQueryAttention, which writes into the cache too), and sums and norms are one pass.
"""

from __future__ import annotations

from onnx import TensorProto

from internvl_rt.bundle.graph_ports import COS, LAST_POSITIONS, SIN, TOTAL_LENGTH, cache_ports
from internvl_rt.bundle.manifest import LanguageModel, NormType, Vision
from internvl_rt.bundle.tensors import INT4_BLOCK, SCALES_SUFFIX, llm_layer, of_language_model
from internvl_rt.export.graphs.dialect import Dialect
from internvl_rt.export.graphs.graph import MICROSOFT, Shape

INT8_ACCURACY = 4
"""MatMulNBits rounds activations to int8, one scale for each block of a row, and multiplies integers."""

LARGEST_BLOCK = 128
"""Elements of an int8 row of a tower that MatMulNBits is told share a scale: longer blocks save scales, and
activations are rounded by blocks of the same length. The rows of a language model, whose activations have
channels far above the others, have INT4_BLOCK: a block loses what stands beside such a channel."""
SMALLEST_BLOCK = 16


class Ort(Dialect):
    """Tokens stay [batch, n, channels] in attention: the operators split the heads themselves."""

    VISION_OPSET = 23
    """The lowest with RMSNormalization."""
    LANGUAGE_OPSET = 23
    """RotaryEmbedding too: ONNX Runtime 1.23, the last for Python 3.10, takes it."""

    _positions_shape: str
    """[batch, n, -1]"""
    _shared: tuple[str, str, str, str]
    """The inputs: cosines, sines, last positions, total length"""

    def project(self, x: str, weight: str, name: str, bias: str | None = None) -> str:
        """The product x W^T; of integers where the weight is."""
        stored = self.graph.stored_type(weight)
        rows_columns = self.graph.stored_shape(weight)
        if stored == "int4":
            return self._integer_product(x, weight, name, bias, bits=4, block=INT4_BLOCK)
        longest = INT4_BLOCK if of_language_model(weight) else LARGEST_BLOCK
        if stored == "int8" and (block := _block_of(rows_columns[1], longest)):
            return self._integer_product(x, weight, name, bias, bits=8, block=block)
        return super().project(x, weight, name, bias)

    def silu(self, x: str, name: str) -> str:
        """SiLU: x * sigmoid(1 * x)."""
        return self.graph.op("QuickGelu", [x], name, domain=MICROSOFT, alpha=1.0)

    def add_norm(
        self, x: str, u: str, name: str, norm: str, eps: float, kind: NormType = "rms_norm"
    ) -> tuple[str, str]:
        """The sum of x and u, and its norm, in one pass."""
        inputs = [x, u, self.weight(f"{norm}.weight")]
        operator = "SkipSimplifiedLayerNormalization"
        if kind == "layer_norm":
            operator = "SkipLayerNormalization"
            inputs.append(self.weight(f"{norm}.bias"))
        outputs = [norm, "", "", name]
        self.graph.op(operator, inputs, norm, outputs=outputs, domain=MICROSOFT, epsilon=eps)
        return name, norm

    def tile_attention(self, vision: Vision, q: str, k: str, v: str, name: str) -> str:
        """Attention over the tokens of each tile, which holds no more than a few rows of scores at a time."""
        shape = [-1, 1 + vision.patches, vision.hidden_size]
        by_tile = [self.graph.reshape(value, shape, f"{value}.by_tile") for value in (q, k, v)]
        x = self.graph.op("MultiHeadAttention", by_tile, name, domain=MICROSOFT, num_heads=vision.heads)
        return self.graph.reshape(x, [-1, vision.hidden_size], f"{name}.merged")

    def begin_step(self, llm: LanguageModel, embeddings: str) -> None:
        """Declares the inputs that the layers share."""
        graph = self.graph
        length = graph.op("Shape", [embeddings], "llm.length", start=0, end=2)
        self._positions_shape = graph.op(
            "Concat", [length, graph.integers([-1])], "llm.positions_shape", axis=0
        )
        self._shared = (
            graph.input(COS, self.compute, ["batch", "n", llm.head_dim // 2]),
            graph.input(SIN, self.compute, ["batch", "n", llm.head_dim // 2]),
            graph.input(LAST_POSITIONS, TensorProto.INT32, ["batch"]),
            graph.input(TOTAL_LENGTH, TensorProto.INT32, []),
        )

    def cached_attention(self, llm: LanguageModel, q: str, k: str, v: str, layer: int) -> str:
        """Attention over the filled part of a layer's cache."""
        graph = self.graph
        cos, sin, last_positions, total_length = self._shared

        def name(part: str) -> str:
            return llm_layer(layer, part)

        if llm.qk_norm:
            q = self._head_norm(q, name("q_norm"), llm)
            k = self._head_norm(k, name("k_norm"), llm)
        q, k, v = (
            graph.op("Reshape", [value, self._positions_shape], f"{part}.by_position")
            for value, part in ((q, name("q")), (k, name("k")), (v, name("v")))
        )
        q, k = (
            graph.op("RotaryEmbedding", [value, cos, sin], name(part), interleaved=0, num_heads=heads)
            for value, part, heads in ((q, "q.rotated", llm.heads), (k, "k.rotated", llm.kv_heads))
        )
        shape: Shape = ["batch", llm.kv_heads, self.capacity, llm.head_dim]
        ports = cache_ports(layer)
        caches = [graph.input(port_in, self.compute, shape) for port_in, _ in ports]
        updated = [port_out for _, port_out in ports]
        for port_out in updated:
            graph.output(port_out, self.compute, shape)
        x = graph.op(
            "GroupQueryAttention",
            [q, k, v, *caches, last_positions, total_length],
            name("attention"),
            outputs=[name("attention"), *updated],
            domain=MICROSOFT,
            num_heads=llm.heads,
            kv_num_heads=llm.kv_heads,
        )
        return graph.reshape(x, [-1, llm.heads * llm.head_dim], name("attention.merged"))

    def _head_norm(self, x: str, name: str, llm: LanguageModel) -> str:
        """RMSNorm over each head's channels; the result's last axis is still one head's."""
        return self.norm(self.graph.reshape(x, [-1, llm.head_dim], f"{name}.by_head"), name, llm.norm_eps)

    def _rms_norm(self, x: str, name: str, eps: float) -> str:
        inputs = [x, self.weight(f"{name}.weight")]
        return self.graph.op("RMSNormalization", inputs, name, axis=-1, epsilon=eps)

    def _integer_product(
        self, x: str, weight: str, name: str, bias: str | None, *, bits: int, block: int
    ) -> str:
        graph = self.graph
        rows, columns = graph.stored_shape(weight)
        # MatMulNBits counts from the lowest integer where the bundle counts from zero: its numbers are ours
        # with the sign bit flipped. ONNX Runtime flips it once, when it loads the graph.
        sign = 0x88 if bits == 4 else 0x80
        stored = graph.stored_bytes(weight, [rows, columns // block, block * bits // 8])
        flip = graph.scalar(sign, TensorProto.UINT8, f"sign.int{bits}")
        unsigned = graph.op("BitwiseXor", [stored, flip], f"{weight}.unsigned")
        scales = self.weight(weight + SCALES_SUFFIX)
        if bits == 8:
            scales = graph.reshape(scales, [rows, 1], f"{weight}.scales.by_row")
            shape = graph.integers([rows, columns // block])
            scales = graph.op("Expand", [scales, shape], f"{weight}.scales.by_block")
        inputs = [x, unsigned, scales]
        if bias is not None:
            inputs += ["", "", self.weight(bias)]
        return graph.op(
            "MatMulNBits",
            inputs,
            name,
            domain=MICROSOFT,
            N=rows,
            K=columns,
            bits=bits,
            block_size=block,
            accuracy_level=INT8_ACCURACY,
        )


def _block_of(columns: int, longest: int) -> int:
    """The longest block that divides a row and is at most ``longest``, or 0."""
    block = longest
    while block >= SMALLEST_BLOCK:
        if columns % block == 0:
            return block
        block //= 2
    return 0
