"""Every architecture's structure at every precision, against the NumPy reference on the weights as stored.

Where only weights are integers or half floats, and activations are float32, the reference with the stored
numbers is what an engine must compute, to 1e-4. The native engine rounds activations to int8 where they meet
integers, and to bf16 where they meet bf16 and the processor multiplies that: what that may change follows
from the rounding (``parity.compare.Rounding``).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from bundle.tiny import tiny_manifest
from internvl_rt.bundle.manifest import Experts, Manifest
from internvl_rt.export.synthetic import write_synthetic
from parity.compare import (
    ENGINES,
    assert_greedy_agrees,
    assert_rounded_agrees,
    cosine,
    greedy,
    opened,
    relative_error,
    rounding,
)
from reference.stored import reference_of_bundle

PRECISIONS = ["fp32", "fp16", "bf16", "int8", "int4"]


def structure(name: str, weights: str) -> Manifest:
    """A tiny model with the facts of one of the architectures."""
    manifest = tiny_manifest(weights, None if weights == "int4" else weights)
    vision, llm, projector = manifest.vision, manifest.llm, manifest.projector
    if name == "6b-internlm2":
        vision = dataclasses.replace(vision, norm="rms_norm", qkv_bias=False, qk_norm=True)
        llm = dataclasses.replace(llm, qkv_bias=False, kv_heads=1, norm_eps=1e-5)
    if name == "qwen3":
        llm = dataclasses.replace(llm, qkv_bias=False, qk_norm=True, head_dim=32)
    if name == "qwen3_moe":
        experts = Experts(count=6, chosen=2, normalise=True)
        llm = dataclasses.replace(llm, qkv_bias=False, qk_norm=True, experts=experts)
    if name == "tied-v1":
        llm = dataclasses.replace(llm, tied_embeddings=True)
        projector = dataclasses.replace(projector, pixel_shuffle="v1")
    return dataclasses.replace(manifest, vision=vision, llm=llm, projector=projector)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("weights", PRECISIONS)
@pytest.mark.parametrize("name", ["300m-qwen2", "6b-internlm2", "qwen3", "qwen3_moe", "tied-v1"])
def test_engine_computes_what_is_stored(tmp_path: Path, engine: str, weights: str, name: str) -> None:
    manifest = structure(name, weights)
    folder = write_synthetic(manifest, tmp_path / "bundle", tokenizer=None, progress=False)
    reference = reference_of_bundle(folder)
    rng = np.random.default_rng(1)
    size = manifest.tiling.tile_size
    pixels = rng.standard_normal((3, 3, size, size), dtype=np.float32)
    with opened(engine, folder) as model:
        features = model.encode_tiles(pixels).features
        if bounds := rounding(engine, manifest.precision.vit):
            assert cosine(features, reference.features(pixels)) >= bounds.cosine
        else:
            assert relative_error(features, reference.features(pixels)) < 1e-4

        context = manifest.prompt.image_context_id
        ids = np.concatenate([rng.integers(0, 290, 9), np.full(features[:, :, 0].size, context), [7, 8, 9]])
        flat = features.reshape(-1, features.shape[-1])
        embeddings = model.embed(ids, flat)
        assert relative_error(embeddings, reference.embed(ids, flat, context)) == 0

        sequence = model.new_sequence()
        logits = model.prefill(sequence, embeddings, all_logits=True)
        expected = reference.logits(embeddings)
        if bounds := rounding(engine, weights):
            assert_rounded_agrees(
                bounds,
                logits,
                expected,
                lambda token: model.decode([sequence], [token]),
                *reference.greedy(embeddings, 8),
                experts=name == "qwen3_moe",
            )
            return
        assert relative_error(logits, expected) < 1e-4
        assert_greedy_agrees(greedy(model, embeddings, 8), *reference.greedy(embeddings, 8))


@pytest.mark.parametrize("engine", ENGINES)
def test_dynamic_rope_beyond_the_trained_length(tmp_path: Path, engine: str) -> None:
    """The base grows with the sequence's length; a prompt in one call has one base, whatever its chunks."""
    manifest = structure("300m-qwen2", "fp32")
    assert manifest.llm.rope.scaling == "dynamic"
    length = manifest.llm.rope.max_position_embeddings + 100
    folder = write_synthetic(manifest, tmp_path / "bundle", tokenizer=None, progress=False)
    embeddings = np.random.default_rng(2).standard_normal((length, 64), dtype=np.float32)
    expected = reference_of_bundle(folder).logits(embeddings)
    with opened(engine, folder) as model:
        logits = model.prefill(model.new_sequence(), embeddings, all_logits=True)
    assert relative_error(logits, expected) < 1e-4
