"""What is in a bundle, and what it needs of a machine."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import get_args

from internvl_rt import _core
from internvl_rt.bundle.bundle import Bundle
from internvl_rt.bundle.manifest import WEIGHTS_FILE, Manifest
from internvl_rt.bundle.tensors import SCALES_SUFFIX, tensor_specs
from internvl_rt.engines.native import CacheType, default_cache_type
from internvl_rt.errors import PromptError
from internvl_rt.model.cache_size import default_cache_tokens, kv_bytes_per_token

SUBMODELS = ("vit", "projector", "embedding", "llm")


@dataclass(frozen=True)
class Submodel:
    """A tower, the projector, the embedding table or the language model, as it is stored."""

    name: str
    precision: str
    parameters: int
    bytes: int


@dataclass(frozen=True)
class Inspection:
    """The facts of a bundle."""

    manifest: Manifest
    parts: tuple[Submodel, ...]
    kv_bytes_per_token: int
    context_tokens: int
    """The context that the figures below are for: of the KV cache that ``load`` takes on this machine at this
    time, or what was asked for."""
    cache_bytes: int
    """The KV cache of that context."""
    batch_tiles: int
    """Tiles that the native engine's vision tower computes at once."""
    activation_bytes: int
    """What the activations of such a batch take while a picture is encoded."""
    weights_bytes: int
    """Mapped into memory, shared by all processes that use the bundle."""
    files_bytes: int
    """The whole folder but its manifest."""

    @property
    def memory_bytes(self) -> int:
        """Weights and cache. Activations come on top while a picture or a prompt is computed."""
        return self.weights_bytes + self.cache_bytes


def inspect_bundle(
    bundle: Bundle, context_tokens: int | None = None, cache_type: CacheType | None = None
) -> Inspection:
    """Adds up what a bundle holds and needs.

    Args:
        bundle: an opened bundle.
        context_tokens: tokens of the KV cache to reckon with; what ``load`` takes where None.
        cache_type: how the cache stores keys and values; what ``load`` takes where None.

    Raises:
        PromptError: if ``context_tokens`` is not positive, or there is no such cache type.
    """
    if cache_type is None:
        cache_type = default_cache_type(bundle.manifest)
    if cache_type not in get_args(CacheType):
        raise PromptError(f"cache_type must be one of {', '.join(get_args(CacheType))}, not {cache_type!r}.")
    manifest = bundle.manifest
    if context_tokens is None:
        context_tokens = default_cache_tokens(manifest, cache_type, _core.usable_memory())
    if context_tokens < 1:
        raise PromptError(f"the context must be at least 1 token, not {context_tokens}.")
    per_token = kv_bytes_per_token(manifest.llm, cache_type)
    vision = [spec for spec in tensor_specs(manifest) if spec.part in ("vit", "projector")]
    matrices = {spec.precision for spec in vision if spec.kind == "matrix"}
    bfloat16 = [prod(spec.shape[1:]) for spec in vision if spec.precision == "bf16"]
    batch_tiles, activation_bytes = _core.vision_batch(
        manifest.checked(),
        floats=not matrices.isdisjoint(("fp32", "fp16")),
        integers=not matrices.isdisjoint(("int8", "int4")),
        bfloat16_columns=max(bfloat16, default=0),
    )
    return Inspection(
        manifest=manifest,
        parts=_parts(bundle),
        kv_bytes_per_token=per_token,
        context_tokens=context_tokens,
        cache_bytes=per_token * context_tokens,
        batch_tiles=batch_tiles,
        activation_bytes=activation_bytes,
        weights_bytes=manifest.files[WEIGHTS_FILE].bytes,
        files_bytes=sum(entry.bytes for entry in manifest.files.values()),
    )


def _parts(bundle: Bundle) -> tuple[Submodel, ...]:
    manifest = bundle.manifest
    parameters = dict.fromkeys(SUBMODELS, 0)
    stored = dict.fromkeys(SUBMODELS, 0)
    for spec in tensor_specs(manifest):
        parameters[spec.part] += prod(spec.shape)
        for name in (spec.name, spec.name + SCALES_SUFFIX):
            if name in bundle.places:
                stored[spec.part] += bundle.places[name].end - bundle.places[name].begin
    return tuple(
        Submodel(name, _precision(manifest, name), parameters[name], stored[name]) for name in SUBMODELS
    )


def _precision(manifest: Manifest, part: str) -> str:
    """``int8``, or ``int8, 3 of 97 matrices bf16``."""
    matrices = [spec for spec in tensor_specs(manifest) if spec.part == part and spec.kind == "matrix"]
    exceptions = Counter(
        manifest.precision.exceptions[spec.name]
        for spec in matrices
        if spec.name in manifest.precision.exceptions
    )
    chosen: str = getattr(manifest.precision, part)
    parts = [f"{count} of {len(matrices)} matrices {other}" for other, count in sorted(exceptions.items())]
    return ", ".join([chosen, *parts])
