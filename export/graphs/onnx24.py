"""The dialect ``onnx24``: the operations of a model as standard operators of at most opset 24.

The forms are those that ONNX Runtime, OpenVINO and TensorRT all take. In particular the cache is written by
TensorScatter on [batch, kv_heads, capacity, head_dim], and Attention has one output, no causal flag, no past
inputs and a boolean mask: TensorRT refuses the others.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import TensorProto

from internvl_rt.bundle.graph_ports import COS, MASK, SIN, WRITE_INDICES, cache_ports
from internvl_rt.bundle.manifest import LanguageModel, Vision
from internvl_rt.bundle.tensors import llm_layer
from internvl_rt.export.graphs.dialect import Dialect
from internvl_rt.export.graphs.graph import Shape


@dataclass(frozen=True)
class Step:
    """What every layer shares: the names of inputs and of computed shapes."""

    cos: str
    sin: str
    mask: str
    write_indices: str
    length: str
    """[batch, n]"""
    query_shape: str
    """[batch, n, heads, head_dim]"""
    key_shape: str
    """[batch, n, kv_heads, head_dim]"""
    attended: str
    """The mask's width: how much of the cache is looked at."""


class Onnx24(Dialect):
    """Heads are an axis of their own: attention is computed on [batch, heads, n, head_dim]."""

    VISION_OPSET = 23
    """The lowest with Attention and RMSNormalization; ONNX Runtime 1.23, the last for Python 3.10, has it."""
    LANGUAGE_OPSET = 24
    """The lowest with TensorScatter."""

    _step: Step

    def tile_attention(self, vision: Vision, q: str, k: str, v: str, name: str) -> str:
        """Attention over the tokens of each tile."""
        graph = self.graph
        shape = [-1, 1 + vision.patches, vision.heads, vision.head_dim]
        heads = []
        for value in (q, k, v):
            split = graph.reshape(value, shape, f"{value}.by_head")
            heads.append(graph.op("Transpose", [split], f"{value}.heads", perm=[0, 2, 1, 3]))
        x = self._attend(heads[0], heads[1], heads[2], name, vision.head_dim)
        return self._merged(x, vision.hidden_size, name)

    def begin_step(self, llm: LanguageModel, embeddings: str) -> None:
        """Declares the inputs that the layers share."""
        graph = self.graph
        length = graph.op("Shape", [embeddings], "llm.length", start=0, end=2)

        def head_shape(name: str, heads: int) -> str:
            # The heads are spelled out: TensorRT refuses attention over a number of heads that it cannot see.
            return graph.op("Concat", [length, graph.integers([heads, llm.head_dim])], name, axis=0)

        mask = graph.input(MASK, TensorProto.BOOL, ["batch", 1, "n", "attended"])
        self._step = Step(
            cos=graph.input(COS, self.compute, ["batch", "n", llm.head_dim // 2]),
            sin=graph.input(SIN, self.compute, ["batch", "n", llm.head_dim // 2]),
            mask=mask,
            write_indices=graph.input(WRITE_INDICES, TensorProto.INT64, ["batch"]),
            length=length,
            query_shape=head_shape("llm.query_shape", llm.heads),
            key_shape=head_shape("llm.key_shape", llm.kv_heads),
            attended=graph.op("Shape", [mask], "llm.attended", start=3, end=4),
        )

    def cached_attention(self, llm: LanguageModel, q: str, k: str, v: str, layer: int) -> str:
        """Attention over the cache of a layer, up to the mask's width."""
        graph, step = self.graph, self._step

        def name(part: str) -> str:
            return llm_layer(layer, part)

        q = self._by_head(q, step.query_shape)
        k, v = (self._by_head(value, step.key_shape) for value in (k, v))
        if llm.qk_norm:
            # Over each head's channels, before rope.
            q = self.norm(q, name("q_norm"), llm.norm_eps)
            k = self.norm(k, name("k_norm"), llm.norm_eps)
        q = self._rotate(q, name("q.rotated"))
        k = self._rotate(k, name("k.rotated"))

        shape: Shape = ["batch", llm.kv_heads, self.capacity, llm.head_dim]
        attended = []
        for new, (port_in, port_out) in zip((k, v), cache_ports(layer), strict=True):
            cache = graph.input(port_in, self.compute, shape)
            updated = self._update_cache(cache, new, port_out)
            graph.output(port_out, self.compute, shape)
            bounds = [graph.integers([0]), step.attended, graph.integers([2])]
            attended.append(graph.op("Slice", [updated, *bounds], f"{port_in}.attended"))
            read: Shape = ["batch", llm.kv_heads, "attended", llm.head_dim]
            graph.declare(attended[-1], self.compute, read)
        x = self._attend(q, attended[0], attended[1], name("attention"), llm.head_dim, mask=step.mask)
        return self._merged(x, llm.heads * llm.head_dim, name("attention"))

    def _rms_norm(self, x: str, name: str, eps: float) -> str:
        inputs = [x, self.weight(f"{name}.weight")]
        return self.graph.op("RMSNormalization", inputs, name, axis=-1, epsilon=eps)

    def _rotate(self, x: str, name: str) -> str:
        """Rotary position embedding, rotate-half, of x [batch, heads, n, d] by tables [batch, n, d / 2]."""
        return self.graph.op("RotaryEmbedding", [x, self._step.cos, self._step.sin], name, interleaved=0)

    def _update_cache(self, cache: str, new: str, name: str) -> str:
        """The cache [batch, kv_heads, capacity, d] with ``new`` [batch, kv_heads, n, d] written into it."""
        return self.graph.op("TensorScatter", [cache, new, self._step.write_indices], name, axis=-2)

    def _attend(self, q: str, k: str, v: str, name: str, head_dim: int, mask: str | None = None) -> str:
        """Attention of [batch, heads, n, head_dim] over [batch, kv_heads, m, head_dim]."""
        inputs = [q, k, v] + ([mask] if mask is not None else [])
        return self.graph.op("Attention", inputs, name, is_causal=0, scale=head_dim**-0.5)

    def _by_head(self, value: str, shape: str) -> str:
        """[tokens, heads * head_dim] to [batch, heads, n, head_dim]."""
        split = self.graph.op("Reshape", [value, shape], f"{value}.by_head")
        return self.graph.op("Transpose", [split], f"{value}.heads", perm=[0, 2, 1, 3])

    def _merged(self, x: str, channels: int, name: str) -> str:
        """[batch, heads, n, head_dim] to [tokens, channels]."""
        x = self.graph.op("Transpose", [x], f"{name}.tokens", perm=[0, 2, 1, 3])
        return self.graph.reshape(x, [-1, channels], f"{name}.merged")
