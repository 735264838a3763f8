"""The dialect ``trt10``: only operators that the ONNX parser of TensorRT 10.3 (JetPack 6) documents.

That parser ends at opset 20 and has neither Attention, RotaryEmbedding, RMSNormalization nor TensorScatter:
they are written out. Inputs and outputs are those of ``onnx24``. The one thing that is younger is blocked
int4: the parser takes it, though ONNX has it from opset 21 only.
"""

from __future__ import annotations

from typing import Any

from onnx import TensorProto

from internvl_rt.bundle.manifest import LanguageModel
from internvl_rt.export.graphs.onnx24 import Onnx24

BLOCKED_OPSET = 21
"""The lowest with int4 and with block_size."""

MASKED = -30000.0
"""Added to the scores of places that may not be looked at. Every type has it, exp of it is zero, and unlike
minus infinity it never makes NaN of a score."""


class Trt10(Onnx24):
    """Attention is two matrix products; query heads that share keys are rows of one product."""

    VISION_OPSET = 20
    """Gelu is of opset 20, and that is where the parser's documentation ends."""
    LANGUAGE_OPSET = 20

    _indices: str
    """int64 [batch, kv_heads, n, 3]: where in a cache the new positions go"""
    _bias: str
    """[batch, 1, group * n, attended]: zero, or ``MASKED``"""
    _grouped_shape: str
    """[batch, kv_heads, group * n, head_dim], n spelled as -1"""
    _heads_shape: str
    """[batch, heads, n, head_dim]"""
    _tables: tuple[str, str]
    """Cosines and sines [batch, 1, n, head_dim / 2]"""

    def convolve(self, x: str, weight: str, bias: str, name: str, stride: int) -> str:
        """A convolution in steps of its kernel's size; Conv has bfloat16 from opset 22 only."""
        if self.compute != TensorProto.BFLOAT16:
            return super().convolve(x, weight, bias, name, stride)
        wide = Trt10(self.graph)
        x = self.graph.op("Cast", [x], f"{name}.wide", to=wide.compute)
        x = wide.convolve(x, weight, bias, f"{name}.convolved", stride)
        return self.graph.op("Cast", [x], name, to=self.compute)

    def begin_step(self, llm: LanguageModel, embeddings: str) -> None:
        """Declares the inputs that the layers share, and computes what they need of them."""
        super().begin_step(llm, embeddings)
        graph, step = self.graph, self._step
        batch = graph.op("Slice", [step.length, *self._first(0)], "llm.batch")
        n = graph.op("Slice", [step.length, *self._first(1)], "llm.n")
        one = graph.integers([1])
        self._tables = (
            graph.op("Unsqueeze", [step.cos, one], "llm.cos"),
            graph.op("Unsqueeze", [step.sin, one], "llm.sin"),
        )
        rest = graph.integers([llm.kv_heads, -1, llm.head_dim])
        self._grouped_shape = graph.op("Concat", [batch, rest], "llm.grouped_shape", axis=0)
        heads = [batch, graph.integers([llm.heads]), n, graph.integers([llm.head_dim])]
        self._heads_shape = graph.op("Concat", heads, "llm.heads_shape", axis=0)
        zero, masked = (
            graph.scalar(value, self.compute, name) for value, name in ((0, "zero"), (MASKED, "masked"))
        )
        bias = graph.op("Where", [step.mask, zero, masked], "llm.bias")
        repeats = graph.integers([1, 1, llm.heads // llm.kv_heads, 1])
        self._bias = graph.op("Tile", [bias, repeats], "llm.bias.grouped")
        self._indices = self._cache_indices(llm, batch, n)

    def _cache_indices(self, llm: LanguageModel, batch: str, n: str) -> str:
        graph = self.graph
        shape = graph.op("Concat", [batch, graph.integers([llm.kv_heads]), n], "llm.indices.shape", axis=0)
        first = graph.reshape(self._step.write_indices, [-1, 1, 1], "llm.indices.first")
        places = graph.reshape(self._count(n, "llm.indices.n"), [1, 1, -1], "llm.indices.offsets")
        axes = (
            graph.reshape(self._count(batch, "llm.indices.batch"), [-1, 1, 1], "llm.indices.sequences"),
            graph.reshape(graph.integers(range(llm.kv_heads)), [1, -1, 1], "llm.indices.heads"),
            graph.op("Add", [first, places], "llm.indices.places"),
        )
        expanded = [graph.op("Expand", [axis, shape], f"{axis}.expanded") for axis in axes]
        last = [graph.op("Unsqueeze", [axis, graph.integers([-1])], f"{axis}.last") for axis in expanded]
        return graph.op("Concat", last, "llm.indices", axis=-1)

    def _count(self, extent: str, name: str) -> str:
        """0, 1, ... up to ``extent`` [1], exclusive."""
        graph = self.graph
        end = graph.op("Squeeze", [extent, graph.integers([0])], f"{name}.end")
        start, step = (graph.scalar(i, TensorProto.INT64, f"integer.{i}") for i in (0, 1))
        return graph.op("Range", [start, end, step], f"{name}.range")

    def _first(self, index: int) -> tuple[str, str]:
        return self.graph.integers([index]), self.graph.integers([index + 1])

    def _rms_norm(self, x: str, name: str, eps: float) -> str:
        # Squares overflow in fp16, and a mean of squares wants more digits than bf16 has.
        graph, wide = self.graph, TensorProto.FLOAT
        if self.compute != wide:
            x = graph.op("Cast", [x], f"{name}.wide", to=wide)
        squares = graph.op("Mul", [x, x], f"{name}.squares")
        mean = graph.op("ReduceMean", [squares, graph.integers([-1])], f"{name}.mean", keepdims=1)
        mean = graph.op("Add", [mean, graph.scalar(eps, wide, f"eps.{eps:g}")], f"{name}.mean.eps")
        root = graph.op("Sqrt", [mean], f"{name}.root")
        normed = graph.op("Div", [x, root], f"{name}.normed")
        if self.compute != wide:
            normed = graph.op("Cast", [normed], f"{name}.narrow", to=self.compute)
        return graph.op("Mul", [normed, self.weight(f"{name}.weight")], name)

    def _rotate(self, x: str, name: str) -> str:
        graph, (cos, sin) = self.graph, self._tables
        half = [f"{name}.low", f"{name}.high"]
        low = graph.op("Split", [x], f"{name}.split", outputs=half, axis=-1, num_outputs=2)
        high = half[1]
        rotated = []
        for part, kind, a, b in (("first", "Sub", low, high), ("second", "Add", high, low)):
            left = graph.op("Mul", [a, cos], f"{name}.{part}.cos")
            right = graph.op("Mul", [b, sin], f"{name}.{part}.sin")
            rotated.append(graph.op(kind, [left, right], f"{name}.{part}"))
        return graph.op("Concat", rotated, name, axis=-1)

    def _update_cache(self, cache: str, new: str, name: str) -> str:
        return self.graph.op("ScatterND", [cache, self._indices, new], name)

    def _attend(self, q: str, k: str, v: str, name: str, head_dim: int, mask: str | None = None) -> str:
        graph = self.graph
        scale = graph.scalar(head_dim**-0.5, self.compute, f"scale.{head_dim}")
        q = graph.op("Mul", [q, scale], f"{name}.queries")
        if mask is not None:
            q = graph.op("Reshape", [q, self._grouped_shape], f"{name}.grouped")
        keys = graph.op("Transpose", [k], f"{name}.keys", perm=[0, 1, 3, 2])
        scores = graph.op("MatMul", [q, keys], f"{name}.scores")
        if mask is None:
            weights = graph.op("Softmax", [scores], f"{name}.weights", axis=-1)
            return graph.op("MatMul", [weights, v], name)
        scores = graph.op("Add", [scores, self._bias], f"{name}.masked")
        weights = graph.op("Softmax", [scores], f"{name}.weights", axis=-1)
        grouped = graph.op("MatMul", [weights, v], f"{name}.sums")
        return graph.op("Reshape", [grouped, self._heads_shape], name)

    def _dequantise(self, name: str, attributes: dict[str, Any]) -> str:
        if "block_size" in attributes:
            self.graph.require_opset(BLOCKED_OPSET)
        return super()._dequantise(name, attributes)
