"""The dialect ``onnx24``: the operations of a model as standard operators of at most opset 24.

The forms are those that ONNX Runtime, OpenVINO and TensorRT all take. In particular the cache is written by
TensorScatter on [batch, kv_heads, capacity, head_dim], and Attention has one output, no causal flag, no past
inputs and a boolean mask: TensorRT refuses the others.
"""

from __future__ import annotations

from onnx import TensorProto

from internvl_rt.bundle.tensors import INT4_BLOCK, SCALES_SUFFIX
from internvl_rt.export.graphs.graph import ELEMENT_TYPE, Graph


class Onnx24:
    """Adds operations to a graph, computing in one floating-point type.

    Activations of linear layers and norms are [tokens, channels]: the tokens of all tiles or sequences one
    after another.
    """

    def __init__(self, graph: Graph, compute: int = TensorProto.FLOAT) -> None:
        self.graph = graph
        self.compute = compute
        self._converted: dict[str, str] = {}

    def weight(self, name: str) -> str:
        """A weight in the compute type, whatever type it is stored in."""
        if name not in self._converted:
            self._converted[name] = self._convert(name)
        return self._converted[name]

    def linear(self, x: str, name: str, bias: bool) -> str:
        """The linear layer ``name``: x W^T + b.

        Gemm takes W as it is stored, [out, in]; MatMul would need a transposed copy, which ONNX Runtime makes
        when it loads the graph.
        """
        inputs = [x, self.weight(f"{name}.weight")] + ([self.weight(f"{name}.bias")] if bias else [])
        return self.graph.op("Gemm", inputs, name, transB=1)

    def layer_norm(self, x: str, name: str, eps: float) -> str:
        """LayerNorm over the last axis."""
        inputs = [x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias")]
        return self.graph.op("LayerNormalization", inputs, name, axis=-1, epsilon=eps)

    def rms_norm(self, x: str, name: str, eps: float) -> str:
        """RMSNorm over the last axis."""
        return self.graph.op(
            "RMSNormalization", [x, self.weight(f"{name}.weight")], name, axis=-1, epsilon=eps
        )

    def gelu(self, x: str, name: str) -> str:
        """The exact GELU, by erf."""
        return self.graph.op("Gelu", [x], name, approximate="none")

    def silu(self, x: str, name: str) -> str:
        """SiLU: x * sigmoid(x). Swish-24 would be taken apart by ONNX Runtime anyway."""
        return self.graph.op("Mul", [x, self.graph.op("Sigmoid", [x], f"{name}.sigmoid")], name)

    def add(self, a: str, b: str, name: str) -> str:
        """Sum, with broadcasting."""
        return self.graph.op("Add", [a, b], name)

    def multiply(self, a: str, b: str, name: str) -> str:
        """Product, with broadcasting."""
        return self.graph.op("Mul", [a, b], name)

    def rotate(self, x: str, cos: str, sin: str, name: str) -> str:
        """Rotary position embedding, rotate-half, of x [batch, heads, n, d] by tables [batch, n, d / 2]."""
        return self.graph.op("RotaryEmbedding", [x, cos, sin], name, interleaved=0)

    def update_cache(self, cache: str, new: str, write_indices: str, name: str) -> str:
        """The cache [batch, kv_heads, capacity, d] with ``new`` [batch, kv_heads, n, d] written into it."""
        return self.graph.op("TensorScatter", [cache, new, write_indices], name, axis=-2)

    def attention(self, q: str, k: str, v: str, name: str, *, mask: str | None = None) -> str:
        """Scaled dot-product attention of [batch, heads, n, d] over [batch, kv_heads, m, d]."""
        inputs = [q, k, v] + ([mask] if mask is not None else [])
        return self.graph.op("Attention", inputs, name, is_causal=0)

    def _convert(self, name: str) -> str:
        stored = self.graph.stored_type(name)
        if stored == "int8":
            return self._dequantise(name, axis=0)
        if stored == "int4":
            return self._dequantise(name, axis=1, block_size=INT4_BLOCK)
        value = self.graph.stored(name)
        if ELEMENT_TYPE[stored] == self.compute:
            return value
        return self.graph.op("Cast", [value], f"{name}.cast", to=self.compute)

    def _dequantise(self, name: str, **attributes: int) -> str:
        # The output has the type of the scales, so they are converted; not every engine has output_dtype.
        inputs = [self.graph.stored(name), self.weight(name + SCALES_SUFFIX)]
        return self.graph.op("DequantizeLinear", inputs, f"{name}.dequantised", **attributes)
