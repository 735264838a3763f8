"""The models of the family that this release runs: their sizes, as published.

For synthetic bundles, tests and sizing. A real checkpoint is described by its own ``config.json``, never by
this table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log, sqrt
from typing import Literal

from internvl_rt.bundle.manifest import Experts, LanguageModel, Projector, Rope, Tiling, Vision
from internvl_rt.errors import CheckpointError

TokenizerFamily = Literal["internlm2", "qwen2", "qwen2_5", "qwen3", "phi3", "yi", "llama3", "internlm3"]

INTERNVIT_300M = Vision(
    hidden_size=1024,
    layers=24,
    heads=16,
    intermediate_size=4096,
    image_size=448,
    patch_size=14,
    norm="layer_norm",
    norm_eps=1e-6,
    qkv_bias=True,
    qk_norm=False,
)
INTERNVIT_6B = Vision(
    hidden_size=3200,
    layers=45,
    heads=25,
    intermediate_size=12800,
    image_size=448,
    patch_size=14,
    norm="rms_norm",
    norm_eps=1e-6,
    qkv_bias=False,
    qk_norm=True,
)
PROJECTOR = Projector(downsample=2, pixel_shuffle="v2", norm_eps=1e-5)
TILING = Tiling(tile_size=448, min_tiles=1, max_tiles=12, thumbnail=True, dynamic=True)


def _internlm2(
    hidden: int, layers: int, heads: int, intermediate: int, theta: float, factor: float
) -> LanguageModel:
    return LanguageModel(
        architecture="internlm2",
        hidden_size=hidden,
        layers=layers,
        heads=heads,
        kv_heads=8,
        head_dim=128,
        intermediate_size=intermediate,
        vocab_size=92553,
        norm_eps=1e-5,
        qkv_bias=False,
        qk_norm=False,
        tied_embeddings=False,
        rope=Rope(theta, "dynamic", factor, 32768),
    )


def _qwen2(
    hidden: int,
    layers: int,
    heads: int,
    kv_heads: int,
    intermediate: int,
    head_dim: int = 128,
    vocab: int = 151674,
    dynamic: float | None = None,
) -> LanguageModel:
    return LanguageModel(
        architecture="qwen2",
        hidden_size=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=intermediate,
        vocab_size=vocab,
        norm_eps=1e-6,
        qkv_bias=True,
        qk_norm=False,
        tied_embeddings=False,
        rope=Rope(1e6, "none", 1.0, 32768) if dynamic is None else Rope(1e6, "dynamic", dynamic, 32768),
    )


def _qwen3(
    hidden: int,
    layers: int,
    heads: int,
    intermediate: int,
    kv_heads: int = 8,
    experts: Experts | None = None,
) -> LanguageModel:
    return LanguageModel(
        architecture="qwen3" if experts is None else "qwen3_moe",
        hidden_size=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=128,
        intermediate_size=intermediate,
        vocab_size=151936,
        norm_eps=1e-6,
        qkv_bias=False,
        qk_norm=True,
        tied_embeddings=False,
        rope=Rope(1e6, "none", 1.0, 40960),
        experts=experts,
    )


def _llama(
    hidden: int, layers: int, heads: int, intermediate: int, vocab: int, theta: float, positions: int
) -> LanguageModel:
    return LanguageModel(
        architecture="llama",
        hidden_size=hidden,
        layers=layers,
        heads=heads,
        kv_heads=8,
        head_dim=128,
        intermediate_size=intermediate,
        vocab_size=vocab,
        norm_eps=1e-5,
        qkv_bias=False,
        qk_norm=False,
        tied_embeddings=False,
        rope=Rope(theta, "none", 1.0, positions),
    )


def _phi3() -> LanguageModel:
    """Phi-3-mini-128k. Its factors are learned; here, ones that grow as those do."""
    return LanguageModel(
        architecture="phi3",
        hidden_size=3072,
        layers=32,
        heads=32,
        kv_heads=32,
        head_dim=96,
        intermediate_size=8192,
        vocab_size=32020,
        norm_eps=1e-5,
        qkv_bias=False,
        qk_norm=False,
        tied_embeddings=False,
        rope=Rope(
            1e4,
            "longrope",
            32.0,
            131072,
            short_factor=tuple(1 + 0.03 * j for j in range(48)),
            long_factor=tuple(64.0 ** (j / 47) for j in range(48)),
            original_max_position_embeddings=4096,
            attention_factor=sqrt(1 + log(32) / log(4096)),
        ),
    )


@dataclass(frozen=True)
class FamilyModel:
    """One published model."""

    vision: Vision
    llm: LanguageModel
    template: str
    tokenizer: TokenizerFamily


_INTERNLM2_1_8B = _internlm2(2048, 24, 16, 8192, 1e6, 2.0)
_INTERNLM2_7B = _internlm2(4096, 32, 32, 14336, 1e6, 2.0)
_INTERNLM2_20B = _internlm2(6144, 48, 48, 16384, 1e6, 3.0)
_INTERNLM2_5_20B = _internlm2(6144, 48, 48, 16384, 5e7, 2.5)
# InternLM3 in InternLM2's layout; the number of rows of its table is not published.
_INTERNLM3_8B = replace(_internlm2(4096, 48, 32, 10240, 5e7, 6.0), kv_heads=2, vocab_size=128521)
_EXPERTS = Experts(count=128, chosen=8, normalise=True)

FAMILY: dict[str, FamilyModel] = {
    "InternVL-Chat-V1-5": FamilyModel(INTERNVIT_6B, _INTERNLM2_20B, "internlm2-chat", "internlm2"),
    "Mini-InternVL-Chat-2B-V1-5": FamilyModel(INTERNVIT_300M, _INTERNLM2_1_8B, "internlm2-chat", "internlm2"),
    "InternVL2-1B": FamilyModel(
        INTERNVIT_300M, _qwen2(896, 24, 14, 2, 4864, head_dim=64, vocab=151655), "Hermes-2", "qwen2"
    ),
    "InternVL2-2B": FamilyModel(INTERNVIT_300M, _INTERNLM2_1_8B, "internlm2-chat", "internlm2"),
    "InternVL2-8B": FamilyModel(INTERNVIT_300M, _INTERNLM2_7B, "internlm2-chat", "internlm2"),
    "InternVL2-26B": FamilyModel(INTERNVIT_6B, _INTERNLM2_20B, "internlm2-chat", "internlm2"),
    "InternVL2_5-1B": FamilyModel(
        INTERNVIT_300M, _qwen2(896, 24, 14, 2, 4864, head_dim=64), "internvl2_5", "qwen2_5"
    ),
    "InternVL2_5-2B": FamilyModel(INTERNVIT_300M, _INTERNLM2_1_8B, "internvl2_5", "internlm2"),
    "InternVL2_5-4B": FamilyModel(INTERNVIT_300M, _qwen2(2048, 36, 16, 2, 11008), "internvl2_5", "qwen2_5"),
    "InternVL2_5-8B": FamilyModel(INTERNVIT_300M, _INTERNLM2_7B, "internvl2_5", "internlm2"),
    "InternVL2_5-26B": FamilyModel(INTERNVIT_6B, _INTERNLM2_5_20B, "internvl2_5", "internlm2"),
    "InternVL2_5-38B": FamilyModel(INTERNVIT_6B, _qwen2(5120, 64, 40, 8, 27648), "internvl2_5", "qwen2_5"),
    "InternVL2_5-78B": FamilyModel(INTERNVIT_6B, _qwen2(8192, 80, 64, 8, 29568), "internvl2_5", "qwen2_5"),
    "Mini-InternVL-Chat-4B-V1-5": FamilyModel(INTERNVIT_300M, _phi3(), "phi3-chat", "phi3"),
    "InternVL2-4B": FamilyModel(INTERNVIT_300M, _phi3(), "phi3-chat", "phi3"),
    "InternVL2-40B": FamilyModel(
        INTERNVIT_6B, _llama(7168, 60, 56, 20480, 64007, 5e6, 4096), "Hermes-2", "yi"
    ),
    "InternVL2-Llama3-76B": FamilyModel(
        INTERNVIT_6B, _llama(8192, 80, 64, 28672, 128265, 5e5, 8192), "internlm2-chat", "llama3"
    ),
    "InternVL3-1B": FamilyModel(
        INTERNVIT_300M, _qwen2(896, 24, 14, 2, 4864, head_dim=64, dynamic=2.0), "internvl2_5", "qwen2_5"
    ),
    "InternVL3-2B": FamilyModel(
        INTERNVIT_300M, _qwen2(1536, 28, 12, 2, 8960, dynamic=2.0), "internvl2_5", "qwen2_5"
    ),
    "InternVL3-8B": FamilyModel(
        INTERNVIT_300M, _qwen2(3584, 28, 28, 4, 18944, dynamic=2.0), "internvl2_5", "qwen2_5"
    ),
    "InternVL3-9B": FamilyModel(INTERNVIT_300M, _INTERNLM3_8B, "internvl2_5", "internlm3"),
    "InternVL3-14B": FamilyModel(
        INTERNVIT_300M, _qwen2(5120, 48, 40, 8, 13824, dynamic=2.0), "internvl2_5", "qwen2_5"
    ),
    "InternVL3-38B": FamilyModel(
        INTERNVIT_6B, _qwen2(5120, 64, 40, 8, 27648, dynamic=2.0), "internvl2_5", "qwen2_5"
    ),
    "InternVL3-78B": FamilyModel(
        INTERNVIT_6B, _qwen2(8192, 80, 64, 8, 29568, dynamic=2.0), "internvl2_5", "qwen2_5"
    ),
    "InternVL3_5-1B": FamilyModel(INTERNVIT_300M, _qwen3(1024, 28, 16, 3072), "internvl2_5", "qwen3"),
    "InternVL3_5-2B": FamilyModel(INTERNVIT_300M, _qwen3(2048, 28, 16, 6144), "internvl2_5", "qwen3"),
    "InternVL3_5-4B": FamilyModel(INTERNVIT_300M, _qwen3(2560, 36, 32, 9728), "internvl2_5", "qwen3"),
    "InternVL3_5-8B": FamilyModel(INTERNVIT_300M, _qwen3(4096, 36, 32, 12288), "internvl2_5", "qwen3"),
    "InternVL3_5-14B": FamilyModel(INTERNVIT_300M, _qwen3(5120, 40, 40, 17408), "internvl2_5", "qwen3"),
    "InternVL3_5-38B": FamilyModel(INTERNVIT_6B, _qwen3(5120, 64, 64, 25600), "internvl2_5", "qwen3"),
    "InternVL3_5-30B-A3B": FamilyModel(
        INTERNVIT_300M, _qwen3(2048, 48, 32, 768, kv_heads=4, experts=_EXPERTS), "internvl2_5", "qwen3"
    ),
    "InternVL3_5-241B-A28B": FamilyModel(
        INTERNVIT_6B, _qwen3(4096, 94, 64, 1536, kv_heads=4, experts=_EXPERTS), "internvl2_5", "qwen3"
    ),
}


def family_model(name: str) -> FamilyModel:
    """The facts of a model of the family.

    Raises:
        CheckpointError: if the table has no such model; the message lists those that it has.
    """
    key = name.replace(".", "_").lower()
    for known, model in FAMILY.items():
        if known.lower() == key:
            return model
    raise CheckpointError(f"{name!r} is not a model of the family's table: {', '.join(FAMILY)}.")
