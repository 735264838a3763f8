"""What a stage cannot do without: multiplications and additions, and bytes of weights and cache to be read.

Divided by the time that the stage takes, and by the machine's peaks, this says how much there is left to win.
"""

from __future__ import annotations

from dataclasses import dataclass

from contestants.contestant import tokens_of
from internvl_rt.bundle.bundle import Bundle
from internvl_rt.bundle.tensors import EMBED_TOKENS, LM_HEAD, SCALES_SUFFIX, tensor_specs

CACHE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


@dataclass(frozen=True)
class Necessary:
    """Of one run of a stage.

    ``integer`` operations are those with weights of int8 and int4, ``bfloat16`` those with weights of bf16,
    and of attention beside either in the tower, which are rounded to bf16 where that is faster.
    """

    operations: float
    integer: float
    bfloat16: float
    bytes: float


def necessary(bundle: Bundle, stage: str, cache_type: str) -> Necessary | None:
    """None for stages that are sums of others."""
    vision, llm = bundle.manifest.vision, bundle.manifest.llm
    if stage == "vit":
        tokens, merged = 1 + vision.patches, bundle.manifest.tokens_per_tile
        attention = 4.0 * vision.layers * vision.hidden_size * tokens**2
        tower, projector = _products(bundle, "vit"), _products(bundle, "projector")
        rounded = attention if tower.integer + tower.bfloat16 > 0 else 0.0
        return Necessary(
            attention + tokens * tower.operations + merged * projector.operations,
            tokens * tower.integer + merged * projector.integer,
            tokens * tower.bfloat16 + merged * projector.bfloat16 + rounded,
            tower.bytes + projector.bytes,
        )
    layers, head = _products(bundle, "llm"), _head(bundle)
    per_position = 4.0 * llm.layers * llm.heads * llm.head_dim
    if stage.startswith("prefill "):
        prompt = tokens_of(stage)
        return Necessary(
            prompt * layers.operations + head.operations + per_position * prompt**2 / 2,
            prompt * layers.integer + head.integer,
            prompt * layers.bfloat16 + head.bfloat16,
            layers.bytes + head.bytes,
        )
    if not stage.startswith("decode "):
        return None
    count, fill = 8 if stage.startswith("decode 8 ") else 1, tokens_of(stage)
    cache = 2.0 * llm.layers * llm.kv_heads * llm.head_dim * CACHE_BYTES[cache_type] * fill
    return Necessary(
        count * (layers.operations + head.operations + per_position * fill),
        count * (layers.integer + head.integer),
        count * (layers.bfloat16 + head.bfloat16),
        layers.bytes + head.bytes + count * cache,
    )


def _products(bundle: Bundle, part: str) -> Necessary:
    """One token through the part's matrices, without that of the logits."""
    return _sum(
        bundle, [s.name for s in tensor_specs(bundle.manifest) if s.part == part and s.name != LM_HEAD]
    )


def _head(bundle: Bundle) -> Necessary:
    return _sum(bundle, [LM_HEAD if LM_HEAD in bundle.places else EMBED_TOKENS])


def _sum(bundle: Bundle, names: list[str]) -> Necessary:
    operations = integer = rounded = read = 0.0
    for name in names:
        place = bundle.places[name]
        scales = bundle.places.get(name + SCALES_SUFFIX)
        read += place.end - place.begin + (0 if scales is None else scales.end - scales.begin)
        if len(place.tensor.shape) > 1:
            elements = 1.0
            for extent in place.tensor.shape:
                elements *= extent
            operations += 2 * elements
            integer += 2 * elements if place.tensor.dtype in ("int8", "int4") else 0
            rounded += 2 * elements if place.tensor.dtype == "bfloat16" else 0
    return Necessary(operations, integer, rounded, read)
