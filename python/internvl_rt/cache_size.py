"""How large the KV cache is where nobody says, and whether the memory at hand holds it."""

from __future__ import annotations

from internvl_rt import _core
from internvl_rt.bundle.manifest import WEIGHTS_FILE, LanguageModel, Manifest
from internvl_rt.engines.native import CacheType, default_cache_type
from internvl_rt.errors import DeviceError
from internvl_rt.sizes import readable_size

KV_ELEMENT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
"""Of a key's or value's element; int8 has a float32 scale for each key and value of a head beside it."""

MOST_DEFAULT_TOKENS = 32768
"""What most of the published models are trained for; a larger cache has to be asked for."""
LEAST_DEFAULT_TOKENS = 4096
"""Room for a picture of 12 tiles and an answer."""
WITHOUT_KNOWLEDGE_TOKENS = 8192
"""Where the system does not say how much memory there is, or the cache lies on a GPU."""
_ROUNDED_TO = 1024


def kv_bytes_per_token(llm: LanguageModel, cache_type: CacheType) -> int:
    """Bytes of keys and values that one token leaves in the cache."""
    scale = 4 if cache_type == "int8" else 0
    return 2 * llm.layers * llm.kv_heads * (llm.head_dim * KV_ELEMENT_BYTES[cache_type] + scale)


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
    most = min(MOST_DEFAULT_TOKENS, manifest.llm.rope.max_position_embeddings)
    if usable is None or stored is None:
        return min(most, WITHOUT_KNOWLEDGE_TOKENS)
    left = max(0, usable - manifest.files[WEIGHTS_FILE].bytes)
    tokens = left // 4 // kv_bytes_per_token(manifest.llm, stored) // _ROUNDED_TO * _ROUNDED_TO
    return min(most, max(LEAST_DEFAULT_TOKENS, tokens))


def check_memory(llm: LanguageModel, stored: CacheType | None, cache_tokens: int, usable: int | None) -> None:
    """Raises DeviceError unless the memory at hand holds the cache and leaves a sixteenth for the rest."""
    if usable is None or stored is None:
        return
    per_token = kv_bytes_per_token(llm, stored)
    needed, left = per_token * cache_tokens, usable - usable // 16
    if needed <= left:
        return
    fits = left // per_token // _core.CACHE_BLOCK * _core.CACHE_BLOCK
    advice = f"Load the model with cache_tokens={fits} or fewer" if fits else "Close other programs"
    raise DeviceError(
        f"a KV cache of {cache_tokens} tokens takes {readable_size(needed)}, and this process can have "
        f"{readable_size(left)} of memory: {readable_size(needed - left)} are missing. {advice}, or choose a "
        "cache_type that takes less."
    )
