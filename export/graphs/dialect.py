"""What a dialect is: the operations that the graphs of a model are made of.

The builders (``vit``, ``projector``, ``llm``) say what is computed in which order; a dialect says with which
operators. Activations of linear layers and norms are [tokens, channels]: the tokens of all tiles or sequences
one after another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from onnx import TensorProto

from internvl_rt.bundle.graph_ports import CAPACITY
from internvl_rt.bundle.manifest import LanguageModel, NormType, Vision
from internvl_rt.bundle.tensors import INT4_BLOCK, SCALES_SUFFIX
from internvl_rt.export.graphs.graph import ELEMENT_TYPE, Graph


class Dialect(ABC):
    """Adds operations to a graph, computing in one floating-point type.

    What stands here is made of standard operators that every runtime takes; the rest is up to each dialect.
    """

    VISION_OPSET: ClassVar[int]
    LANGUAGE_OPSET: ClassVar[int]

    def __init__(
        self,
        graph: Graph,
        compute: int = TensorProto.FLOAT,
        capacity: int | None = None,
        input_scales: Mapping[str, float] | None = None,
    ) -> None:
        self.graph = graph
        self.compute = compute
        self.input_scales = input_scales or {}
        """See ``PartPrecision.input_scales``."""
        self.capacity: int | str = CAPACITY if capacity is None else capacity
        """Tokens that the caches hold; the name if that is known only when the graph runs."""
        self._converted: dict[str, str] = {}

    def weight(self, name: str) -> str:
        """A weight in the compute type, whatever type it is stored in."""
        if name not in self._converted:
            self._converted[name] = self._convert(name)
        return self._converted[name]

    def linear(self, x: str, name: str, bias: bool) -> str:
        """The linear layer ``name``: x W^T + b."""
        return self.project(x, f"{name}.weight", name, bias=f"{name}.bias" if bias else None)

    def project(self, x: str, weight: str, name: str, bias: str | None = None) -> str:
        """The product x W^T of [tokens, in] with the weight ``weight`` [out, in].

        Gemm takes W as it is stored, [out, in]; MatMul would need a transposed copy, which ONNX Runtime makes
        when it loads the graph. Where the scale of x is known, x is rounded to int8: TensorRT multiplies
        integers where both factors are dequantised.
        """
        if weight in self.input_scales and self.compute != TensorProto.FLOAT:
            x = self._rounded(x, self.input_scales[weight], name)
        inputs = [x, self.weight(weight)] + ([self.weight(bias)] if bias is not None else [])
        return self.graph.op("Gemm", inputs, name, transB=1)

    def norm(self, x: str, name: str, eps: float, kind: NormType = "rms_norm") -> str:
        """RMSNorm or LayerNorm over the last axis."""
        return self._layer_norm(x, name, eps) if kind == "layer_norm" else self._rms_norm(x, name, eps)

    def add_norm(
        self, x: str, u: str, name: str, norm: str, eps: float, kind: NormType = "rms_norm"
    ) -> tuple[str, str]:
        """The sum of x and u, called ``name``, and its norm ``norm``."""
        total = self.add(x, u, name)
        return total, self.norm(total, norm, eps, kind)

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

    def convolve(self, x: str, weight: str, bias: str, name: str, stride: int) -> str:
        """A convolution in steps of its kernel's size: the patch embedding."""
        inputs = [x, self.weight(weight), self.weight(bias)]
        return self.graph.op("Conv", inputs, name, kernel_shape=[stride] * 2, strides=[stride] * 2)

    def _rounded(self, x: str, scale: float, name: str) -> str:
        """A value as int8, and floats again."""
        step = self.graph.scalar(scale, self.compute, f"{name}.input_scale")
        zero = self.graph.scalar(0, TensorProto.INT8, "zero.int8")  # int8, where none would mean uint8
        quantised = self.graph.op("QuantizeLinear", [x, step, zero], f"{name}.input.quantised")
        return self.graph.op("DequantizeLinear", [quantised, step, zero], f"{name}.input")

    @abstractmethod
    def tile_attention(self, vision: Vision, q: str, k: str, v: str, name: str) -> str:
        """Attention over the tokens of each tile: three [tokens, C] to [tokens, C]."""

    @abstractmethod
    def begin_step(self, llm: LanguageModel, embeddings: str) -> None:
        """Declares what the layers share: where the new positions of a step are and what they may look at.

        Args:
            llm: the facts.
            embeddings: the graph's input [batch, n, H].
        """

    @abstractmethod
    def cached_attention(self, llm: LanguageModel, q: str, k: str, v: str, layer: int) -> str:
        """Attention of a step's new positions over the cache, which gets their keys and values first.

        Norms of queries and keys and rotary embedding are part of it; the ports are those of
        ``internvl_rt.bundle.graph_ports``.

        Args:
            llm: the facts.
            q: [tokens, heads * head_dim].
            k: [tokens, kv_heads * head_dim], and so ``v``.
            v: see ``k``.
            layer: the layer's number.

        Returns:
            [tokens, heads * head_dim].
        """

    @abstractmethod
    def _rms_norm(self, x: str, name: str, eps: float) -> str: ...

    def _layer_norm(self, x: str, name: str, eps: float) -> str:
        inputs = [x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias")]
        return self.graph.op("LayerNormalization", inputs, name, axis=-1, epsilon=eps)

    def _convert(self, name: str) -> str:
        stored = self.graph.stored_type(name)
        if stored == "int8":
            return self._dequantise(name, {"axis": 0})
        if stored == "int4":
            return self._dequantise(name, {"axis": 1, "block_size": INT4_BLOCK})
        value = self.graph.stored(name)
        if ELEMENT_TYPE[stored] == self.compute:
            return value
        return self.graph.op("Cast", [value], f"{name}.cast", to=self.compute)

    def _dequantise(self, name: str, attributes: dict[str, Any]) -> str:
        # The output has the type of the scales, so they are converted; not every engine has output_dtype.
        inputs = [self.graph.stored(name), self.weight(name + SCALES_SUFFIX)]
        return self.graph.op("DequantizeLinear", inputs, f"{name}.dequantised", **attributes)
