"""The names and shapes of a bundle's tensors: one table for the exporter, the graphs and the engines.

A *matrix* is the weight of a linear layer, ``[out, in]``, stored in its part's precision as one of

- ``fp32``, ``fp16``, ``bf16``: ``NAME`` of that type;
- ``int8``: ``NAME`` int8 [N, K] and ``NAME.scales`` fp32 [N];
- ``int4``: ``NAME`` int4 [N, K], stored as bytes [N, K/2] with the low nibble first, two's complement,
  and ``NAME.scales`` fp16 [N, K/32].

The experts of a layer are one matrix each for ``gate_up`` and ``down``, one expert's rows below another's.
Their router is [experts, hidden] and fp32: its choices decide more than any one weight.

The *embedding table* and the patch embedding are never integers. Every other tensor is a *vector*
and fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from internvl_rt.bundle.manifest import Flash, LanguageModel, Manifest, PartPrecision, Precision, Vision

INT4_BLOCK = 32
"""Elements along K that share one int4 scale."""

SCALES_SUFFIX = ".scales"

EMBED_TOKENS = "llm.embed_tokens.weight"
LM_HEAD = "llm.lm_head.weight"
LLM_NORM = "llm.norm.weight"
CLASS_EMBEDDING = "vit.class_embedding"
POSITION_EMBEDDING = "vit.position_embedding"
PATCH_EMBEDDING = "vit.patch_embedding.weight"
PATCH_EMBEDDING_BIAS = "vit.patch_embedding.bias"

FLASH_QUERY = "flash.query"
FLASH_BLOCKS = 4
"""Residual blocks of the resolution router."""

Part = Literal["vit", "projector", "llm", "embedding"]
Kind = Literal["matrix", "table", "vector"]


@dataclass(frozen=True)
class TensorSpec:
    """One logical tensor of the model, before its precision is chosen."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    part: Part


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as it stands in the weights file. ``dtype`` is the element type, ``shape`` in elements."""

    name: str
    dtype: Literal["float32", "float16", "bfloat16", "int8", "int4"]
    shape: tuple[int, ...]


def vit_layer(layer: int, name: str) -> str:
    """The name of a tensor of ViT layer ``layer``, such as ``qkv.weight``."""
    return f"vit.layers.{layer}.{name}"


def llm_layer(layer: int, name: str) -> str:
    """The name of a tensor of decoder layer ``layer``, such as ``gate_up.weight``."""
    return f"llm.layers.{layer}.{name}"


def of_language_model(name: str) -> bool:
    """Whether a tensor is one of the language model's, its embedding table among them."""
    return name.startswith("llm.")


def tensor_specs(manifest: Manifest) -> Iterator[TensorSpec]:
    """Every logical tensor of a model, in the order in which it is computed with."""
    yield from _vit_specs(manifest.vision)
    yield from _projector_specs(manifest)
    if manifest.flash is not None:
        yield from _flash_specs(manifest, manifest.flash)
    yield from _llm_specs(manifest.llm, manifest.precision)


def stored_tensors(spec: TensorSpec, precision: PartPrecision) -> tuple[StoredTensor, ...]:
    """How a logical tensor is stored: itself, and its scales if it is quantised."""
    chosen = stored_precision(spec, precision)
    if chosen == "int4":
        n, k = spec.shape
        return (
            StoredTensor(spec.name, "int4", (n, k)),
            StoredTensor(spec.name + SCALES_SUFFIX, "float16", (n, k // INT4_BLOCK)),
        )
    if chosen == "int8":
        n, k = spec.shape
        return (
            StoredTensor(spec.name, "int8", (n, k)),
            StoredTensor(spec.name + SCALES_SUFFIX, "float32", (n,)),
        )
    if chosen == "fp16":
        return (StoredTensor(spec.name, "float16", spec.shape),)
    if chosen == "bf16":
        return (StoredTensor(spec.name, "bfloat16", spec.shape),)
    return (StoredTensor(spec.name, "float32", spec.shape),)


def stored_precision(spec: TensorSpec, precision: PartPrecision) -> Precision:
    """The precision a logical tensor is stored in, by its kind and part."""
    if spec.kind == "vector":
        return "fp32"
    chosen: Precision = precision.exceptions.get(spec.name, getattr(precision, spec.part))
    if spec.kind == "table" and chosen in ("int8", "int4"):
        return "bf16"
    return chosen


def _norm(name: str, size: int, part: Part, bias: bool) -> Iterator[TensorSpec]:
    yield TensorSpec(f"{name}.weight", (size,), "vector", part)
    if bias:
        yield TensorSpec(f"{name}.bias", (size,), "vector", part)


def _linear(name: str, out: int, inner: int, part: Part, bias: bool) -> Iterator[TensorSpec]:
    yield TensorSpec(f"{name}.weight", (out, inner), "matrix", part)
    if bias:
        yield TensorSpec(f"{name}.bias", (out,), "vector", part)


def _vit_specs(vision: Vision) -> Iterator[TensorSpec]:
    c, f, p = vision.hidden_size, vision.intermediate_size, vision.patch_size
    norm_bias = vision.norm == "layer_norm"
    yield TensorSpec(CLASS_EMBEDDING, (c,), "vector", "vit")
    yield TensorSpec(POSITION_EMBEDDING, (1 + vision.patches, c), "vector", "vit")
    yield TensorSpec(PATCH_EMBEDDING, (c, 3, p, p), "table", "vit")
    yield TensorSpec(PATCH_EMBEDDING_BIAS, (c,), "vector", "vit")
    for layer in range(vision.layers):
        yield from _norm(vit_layer(layer, "norm1"), c, "vit", norm_bias)
        yield from _linear(vit_layer(layer, "qkv"), 3 * c, c, "vit", vision.qkv_bias)
        if vision.qk_norm:
            yield TensorSpec(vit_layer(layer, "q_norm.weight"), (c,), "vector", "vit")
            yield TensorSpec(vit_layer(layer, "k_norm.weight"), (c,), "vector", "vit")
        yield from _linear(vit_layer(layer, "proj"), c, c, "vit", True)
        yield TensorSpec(vit_layer(layer, "ls1"), (c,), "vector", "vit")
        yield from _norm(vit_layer(layer, "norm2"), c, "vit", norm_bias)
        yield from _linear(vit_layer(layer, "fc1"), f, c, "vit", True)
        yield from _linear(vit_layer(layer, "fc2"), c, f, "vit", True)
        yield TensorSpec(vit_layer(layer, "ls2"), (c,), "vector", "vit")


def _projector_specs(manifest: Manifest) -> Iterator[TensorSpec]:
    inner = manifest.vision.hidden_size * manifest.projector.downsample**2
    h = manifest.llm.hidden_size
    yield from _norm("projector.norm", inner, "projector", True)
    yield from _linear("projector.fc1", h, inner, "projector", True)
    yield from _linear("projector.fc2", h, h, "projector", True)


def _flash_specs(manifest: Manifest, flash: Flash) -> Iterator[TensorSpec]:
    c, h = manifest.vision.hidden_size, manifest.llm.hidden_size
    yield TensorSpec(FLASH_QUERY, (c,), "vector", "projector")
    for i in (1, 2):
        yield from _linear(f"flash.attention{i}.qkv", 3 * c, c, "projector", True)
        yield from _linear(f"flash.attention{i}.proj", c, c, "projector", True)
        yield from _norm(f"flash.norm{i}", c, "projector", True)
    for i in range(FLASH_BLOCKS):
        yield from _linear(f"flash.blocks.{i}.fc1", 4 * c, c, "projector", True)
        yield from _linear(f"flash.blocks.{i}.fc2", c, 4 * c, "projector", True)
        yield from _norm(f"flash.blocks.{i}.norm", c, "projector", True)
    yield from _norm("flash.gate_norm", c, "projector", True)
    yield from _linear("flash.gate", 2, c, "projector", True)
    inner = c * flash.downsample**2
    yield from _norm("flash.projector.norm", inner, "projector", True)
    yield from _linear("flash.projector.fc1", 2 * h, inner, "projector", True)
    yield from _linear("flash.projector.fc2", 2 * h, 2 * h, "projector", True)
    yield from _linear("flash.projector.fc3", h, 2 * h, "projector", True)


def _llm_specs(llm: LanguageModel, precision: PartPrecision) -> Iterator[TensorSpec]:
    h, i, d = llm.hidden_size, llm.intermediate_size, llm.head_dim
    yield TensorSpec(EMBED_TOKENS, (llm.vocab_size, h), "table", "embedding")
    for layer in range(llm.layers):
        yield from _norm(llm_layer(layer, "attention_norm"), h, "llm", False)
        # Queries, keys and values in one matrix, gate and up in another: one pass over the input each.
        yield from _linear(llm_layer(layer, "qkv"), llm.qkv_rows, h, "llm", llm.qkv_bias)
        if llm.qk_norm:
            yield TensorSpec(llm_layer(layer, "q_norm.weight"), (d,), "vector", "llm")
            yield TensorSpec(llm_layer(layer, "k_norm.weight"), (d,), "vector", "llm")
        yield from _linear(llm_layer(layer, "o_proj"), h, llm.heads * d, "llm", False)
        yield from _norm(llm_layer(layer, "mlp_norm"), h, "llm", False)
        if llm.experts is None:
            yield from _linear(llm_layer(layer, "gate_up"), 2 * i, h, "llm", False)
            yield from _linear(llm_layer(layer, "down"), h, i, "llm", False)
        else:
            count = llm.experts.count
            yield TensorSpec(llm_layer(layer, "router.weight"), (count, h), "vector", "llm")
            yield from _linear(llm_layer(layer, "experts.gate_up"), count * 2 * i, h, "llm", False)
            yield from _linear(llm_layer(layer, "experts.down"), count * h, i, "llm", False)
    yield TensorSpec(LLM_NORM, (h,), "vector", "llm")
    if not (llm.tied_embeddings and precision.llm == precision.embedding):
        yield TensorSpec(LM_HEAD, (llm.vocab_size, h), "matrix", "llm")
