"""A tiny model's manifest, and its bundle with random weights."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

from tokenizers import Tokenizer

from internvl_rt.bundle.manifest import Manifest, Projector, Rope
from internvl_rt.export.precision import choose_precision
from internvl_rt.export.synthetic import synthetic_manifest, write_synthetic
from internvl_rt.export.tokenizers import prompt_facts, synthetic_tokenizer

VOCABULARY = 331


@functools.cache
def tiny_manifest(weights: str = "fp32", vision: str | None = None, name: str = "InternVL2_5-1B") -> Manifest:
    """A model of the family at widths and depths that a test can afford."""
    manifest = synthetic_manifest(name, layers=2)
    return dataclasses.replace(
        manifest,
        vision=dataclasses.replace(
            manifest.vision, hidden_size=64, heads=4, intermediate_size=128, image_size=56
        ),
        projector=Projector(downsample=2, pixel_shuffle="v2"),
        llm=dataclasses.replace(
            manifest.llm,
            hidden_size=64,
            heads=4,
            kv_heads=2,
            head_dim=16,
            intermediate_size=96,
            vocab_size=VOCABULARY,
            rope=Rope(1e6, "dynamic", 2.0, 512),
        ),
        tiling=dataclasses.replace(manifest.tiling, tile_size=56),
        prompt=prompt_facts(tiny_tokenizer(), manifest.prompt.template, None),
        precision=choose_precision(weights, vision),
    )


@functools.cache
def tiny_tokenizer() -> Tokenizer:
    return synthetic_tokenizer("qwen2_5", VOCABULARY)


def write_tiny(
    out: Path,
    weights: str = "fp32",
    vision: str | None = None,
    *,
    graphs: bool = False,
    seed: int = 0,
    positions: int | None = None,
) -> Path:
    """A tiny bundle with a working tokenizer; its context has 512 ``positions`` unless more are asked for."""
    manifest = tiny_manifest(weights, vision)
    if positions is not None:
        rope = dataclasses.replace(manifest.llm.rope, max_position_embeddings=positions)
        manifest = dataclasses.replace(manifest, llm=dataclasses.replace(manifest.llm, rope=rope))
    return write_synthetic(
        manifest,
        out,
        tokenizer=tiny_tokenizer(),
        graphs=graphs,
        seed=seed,
        progress=False,
    )
