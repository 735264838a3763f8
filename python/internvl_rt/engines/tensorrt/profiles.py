"""Which shapes TensorRT engines are built for: what a bundle's pictures and prompts can ask of them."""

from __future__ import annotations

from dataclasses import dataclass

from internvl_rt.bundle.graph_ports import (
    COS,
    EMBEDDINGS,
    MASK,
    PIXEL_VALUES,
    ROWS,
    SHUFFLED,
    SIN,
    WRITE_INDICES,
    cache_ports,
)
from internvl_rt.bundle.graph_sets import GraphName
from internvl_rt.bundle.manifest import LanguageModel, Manifest

Shape = tuple[int, ...]

ATTENDED = 64
"""Attention reads the cache up to a multiple of this."""
LOGIT_ROWS = 16
"""Positions whose logits one run returns; where all are wanted, a prompt is cut that small."""


@dataclass(frozen=True)
class Limits:
    """What the engines of a bundle must be able to do at once."""

    tiles: int
    """Tiles of one run of the ViT and the projector."""
    prefill_chunk: int
    """Tokens of a prompt that are computed together."""
    decode_batch: int
    """Sequences that are decoded together."""
    cache_tokens: int
    """Tokens that one sequence holds: the extent of the KV cache, which TensorRT wants fixed."""


@dataclass(frozen=True)
class ShapeRange:
    """The least, the usual and the largest shape of an input."""

    least: Shape
    usual: Shape
    most: Shape


Profile = dict[str, ShapeRange]
"""Every input of a graph, by name."""


def profiles_of(manifest: Manifest, graph: GraphName, limits: Limits) -> tuple[Profile, ...]:
    """The optimisation profiles of a graph (dialects ``onnx24`` and ``trt10``).

    The ViT and the projector have one, from a tile to all of a picture's. The language model has two:
    prefill, a chunk of one sequence, and decode, one token of each of several.
    """
    if graph == "llm":
        return _prefill(manifest.llm, limits), _decode(manifest.llm, limits)
    shape: Shape
    if graph == "vit":
        name, shape = PIXEL_VALUES, (3, manifest.vision.image_size, manifest.vision.image_size)
    else:
        inner = manifest.vision.hidden_size * manifest.projector.downsample**2
        name, shape = SHUFFLED, (manifest.tokens_per_tile, inner)
    # Most pictures are one tile, and those that are not run at the largest batch.
    return ({name: ShapeRange((1, *shape), (1, *shape), (limits.tiles, *shape))},)


def _prefill(llm: LanguageModel, limits: Limits) -> Profile:
    chunk, cache = limits.prefill_chunk, limits.cache_tokens
    attended = (min(ATTENDED, cache), min(2 * chunk, cache), cache)
    return _step(llm, cache, batch=(1, 1, 1), n=(1, chunk, chunk), attended=attended)


def _decode(llm: LanguageModel, limits: Limits) -> Profile:
    batch, cache = limits.decode_batch, limits.cache_tokens
    attended = (min(ATTENDED, cache), min(1024, cache), cache)
    return _step(llm, cache, batch=(1, 1, batch), n=(1, 1, 1), attended=attended)


def _step(llm: LanguageModel, cache: int, batch: Shape, n: Shape, attended: Shape) -> Profile:
    def ranged(*extents: int | Shape) -> ShapeRange:
        """Extents that are the same in all three shapes, or one for each."""
        least, usual, most = (
            tuple(extent if isinstance(extent, int) else extent[i] for extent in extents) for i in range(3)
        )
        return ShapeRange(least, usual, most)

    profile = {
        EMBEDDINGS: ranged(batch, n, llm.hidden_size),
        COS: ranged(batch, n, llm.head_dim // 2),
        SIN: ranged(batch, n, llm.head_dim // 2),
        MASK: ranged(batch, 1, n, attended),
        WRITE_INDICES: ranged(batch),
        ROWS: ranged((1, batch[1], max(batch[2], LOGIT_ROWS))),
    }
    for layer in range(llm.layers):
        for port, _ in cache_ports(layer):
            profile[port] = ranged(batch, llm.kv_heads, cache, llm.head_dim)
    return profile


def default_limits(
    manifest: Manifest,
    *,
    cache_tokens: int | None = None,
    prefill_chunk: int | None = None,
    decode_batch: int | None = None,
) -> Limits:
    """Limits that suit a bundle: a picture's tiles at once, and a context as long as ``load`` makes it.

    One sequence in a decode step, because the engine computes them one after another.
    """
    trained = manifest.llm.rope.max_position_embeddings
    cache = min(cache_tokens or 8192, trained)
    cache = -(-cache // ATTENDED) * ATTENDED
    tiling = manifest.tiling
    tiles = tiling.max_tiles + 1 if tiling.dynamic and tiling.thumbnail else tiling.max_tiles
    return Limits(
        tiles=tiles,
        prefill_chunk=min(prefill_chunk or 512, cache),
        decode_batch=decode_batch or 1,
        cache_tokens=cache,
    )
