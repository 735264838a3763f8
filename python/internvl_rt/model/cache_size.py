"""How large the caches are where nobody says, and whether the memory at hand holds them."""

from __future__ import annotations

from internvl_rt import _core
from internvl_rt.arguments import checked_integer, checked_option
from internvl_rt.bundle.manifest import WEIGHTS_FILE, LanguageModel, Manifest
from internvl_rt.engines.native import CacheType, default_cache_type

MOST_BYTES = 1 << 48


def kv_bytes_per_token(llm: LanguageModel, cache_type: CacheType) -> int:
    """Bytes of keys and values that one token leaves in the cache."""
    return _core.kv_bytes_per_token(llm.layers, llm.kv_heads, llm.head_dim, cache_type)


def stored_type(engine: str, manifest: Manifest, cache_type: CacheType | None) -> CacheType | None:
    """How an engine stores keys and values in the machine's memory; None where it does so elsewhere."""
    if engine == "native":
        return cache_type or default_cache_type(manifest)
    return "float32" if engine == "onnxruntime" else None


def default_cache_tokens(manifest: Manifest, stored: CacheType | None, usable: int | None) -> int:
    """Tokens of the KV cache where the caller names none.

    The trained length, 32768 at most, as far as that takes no more than a quarter of the memory which the
    weights leave; 4096 at least.

    Args:
        manifest: of the bundle.
        stored: what ``stored_type`` returned.
        usable: bytes of memory that this process can still take; None where that is not known.
    """
    known = usable is not None and stored is not None
    return _core.default_cache_tokens(
        manifest.llm.rope.max_position_embeddings,
        per_token=None if stored is None else kv_bytes_per_token(manifest.llm, stored),
        weights=manifest.files[WEIGHTS_FILE].bytes if known else 0,
        usable=usable,
    )


def check_memory(llm: LanguageModel, stored: CacheType | None, cache_tokens: int, usable: int | None) -> None:
    """Raises DeviceError unless the memory at hand holds the cache and leaves a sixteenth for the rest."""
    if usable is not None and stored is not None:
        _core.check_memory(cache_tokens, per_token=kv_bytes_per_token(llm, stored), usable=usable)


def context_of(
    manifest: Manifest,
    cache_tokens: int | None,
    max_context: int | None,
    stored: CacheType | None = None,
) -> tuple[int, int]:
    """The size of the KV cache and the longest prompt with its answer, in tokens.

    Args:
        manifest: of the bundle.
        cache_tokens: as for ``load``.
        max_context: as for ``load``.
        stored: what ``stored_type`` returned.

    Raises:
        PromptError: if a number is out of range, or the context is longer than the cache or than the model is
            made for.
    """
    rope = manifest.llm.rope
    if max_context is not None:
        max_context = checked_option("max_context", max_context, _core.MAX_CONTEXT)
    if cache_tokens is not None:
        cache_tokens = checked_option("cache_tokens", cache_tokens, _core.CACHE_TOKENS)
    return _core.cache_size(
        trained=rope.max_position_embeddings,
        dynamic_factor=rope.factor if rope.scaling == "dynamic" else None,
        cache_tokens=cache_tokens,
        max_context=max_context,
        unasked=0 if cache_tokens else default_cache_tokens(manifest, stored, _core.usable_memory()),
    )


def tile_cache_size(manifest: Manifest, wanted: int | None) -> int:
    """The bytes of the tile cache; ``wanted`` as for ``load``.

    Raises:
        PromptError: if it is no integer of at least 0.
        DeviceError: if it is more than the memory at hand.
    """
    if wanted is not None:
        wanted = checked_integer("tile_cache_bytes", wanted, 0, MOST_BYTES)
    return _core.tile_cache_bytes(manifest.checked(), wanted, usable=_core.usable_memory())


def checked_tolerance(tolerance: int, cache_bytes: int) -> int:
    """``frame_tolerance`` of ``load``, beside so many bytes of the tile cache.

    Raises:
        PromptError: if it is no integer from 0 to 255, or there is no cache to compare with.
    """
    tolerance = checked_integer("frame_tolerance", tolerance, 0, 255)
    _core.check_frame_tolerance(tolerance, cache_bytes=cache_bytes)
    return tolerance
