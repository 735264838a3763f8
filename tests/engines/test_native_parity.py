"""The native language model against transformers and against the float64 reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engines.native_bundles import ARCHITECTURES, manifest_of, transformers_model, write_bundle
from internvl_rt._core import Decoder
from internvl_rt.bundle.bundle import Bundle
from internvl_rt.bundle.manifest import Rope
from internvl_rt.engines.native import CacheType, load_decoder
from parity.compare import BFLOAT16, assert_rounded_agrees, cosine, rounding
from reference.stored import reference_of_bundle

IMAGE = 7
"""Stands for the image context token."""


def prompt(bundle: Bundle, length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random token ids with two runs of image places, and features for them."""
    llm = bundle.manifest.llm
    random = np.random.default_rng(seed)
    ids = random.integers(8, llm.vocab_size, length)
    ids[3:20] = IMAGE
    ids[30:33] = IMAGE
    features = random.standard_normal((20, llm.hidden_size)).astype(np.float32)
    return ids, features


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def greedy(decoder: Decoder, sequence: int, logits: np.ndarray, steps: int) -> list[int]:
    tokens = []
    for _ in range(steps):
        tokens.append(int(logits[-1].argmax()))
        logits = decoder.decode([sequence], tokens[-1:])
    return tokens


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_equals_transformers(tmp_path: Path, architecture: str) -> None:
    bundle = write_bundle(tmp_path, manifest_of(architecture))
    model = transformers_model(bundle)
    decoder = load_decoder(bundle, cache_tokens=256, prefill_chunk=29)
    ids, features = prompt(bundle, 83)
    embeddings = decoder.embed(ids, features, IMAGE)
    wanted_embeddings = model.get_input_embeddings()(torch.tensor(ids)).detach().numpy()
    wanted_embeddings[ids == IMAGE] = features
    np.testing.assert_array_equal(embeddings, wanted_embeddings)

    with torch.no_grad():
        output = model(inputs_embeds=torch.tensor(embeddings)[None], use_cache=True)
    sequence = decoder.new_sequence()
    logits = decoder.prefill(sequence, embeddings, True)
    assert relative(logits, output.logits[0].numpy()) < 1e-4

    for _ in range(40):
        wanted = output.logits[0, -1].numpy()
        second, first = np.sort(wanted)[-2:]
        if first - second > 1e-3:
            assert logits[-1].argmax() == wanted.argmax()
        token = int(wanted.argmax())
        logits = decoder.decode([sequence], [token])
        with torch.no_grad():
            output = model(torch.tensor([[token]]), past_key_values=output.past_key_values, use_cache=True)
        assert relative(logits, output.logits[0].numpy()) < 1e-4
    assert decoder.length(sequence) == 123


@pytest.mark.parametrize("weights", ["fp32", "fp16", "bf16", "int8", "int4"])
@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_equals_the_reference_at_every_precision(tmp_path: Path, architecture: str, weights: str) -> None:
    bundle = write_bundle(tmp_path, manifest_of(architecture, weights))
    reference = reference_of_bundle(bundle.folder)
    decoder = load_decoder(bundle, cache_tokens=256)
    ids, features = prompt(bundle, 70)
    embeddings = decoder.embed(ids, features, IMAGE)
    np.testing.assert_array_equal(embeddings, reference.embed(ids, features, IMAGE).astype(np.float32))
    sequence = decoder.new_sequence()
    logits = decoder.prefill(sequence, embeddings, True)
    expected = reference.logits(embeddings)
    tokens, margins = reference.greedy(embeddings, 12)
    if bounds := rounding("native", weights):
        assert_rounded_agrees(
            bounds, logits, expected, lambda token: decoder.decode([sequence], [token]), tokens, margins
        )
        return
    found = greedy(decoder, sequence, logits, 12)
    assert relative(logits, expected) < 1e-4
    certain = next((i for i, margin in enumerate(margins) if margin <= 1e-3), len(margins))
    assert certain > 6
    assert found[:certain] == tokens[:certain]


@pytest.mark.parametrize("length", [40, 97])
def test_dynamic_rope_equals_transformers(tmp_path: Path, length: int) -> None:
    """Prompts on both sides of the trained length, and answers that grow beyond it."""
    bundle = write_bundle(tmp_path, manifest_of("llama", rope=Rope(1e4, "dynamic", 2.0, 64)))
    model = transformers_model(bundle)
    decoder = load_decoder(bundle, cache_tokens=256, prefill_chunk=32)
    ids, features = prompt(bundle, length)
    embeddings = decoder.embed(ids, features, IMAGE)
    with torch.no_grad():
        output = model(inputs_embeds=torch.tensor(embeddings)[None], use_cache=True)
    sequence = decoder.new_sequence()
    assert relative(decoder.prefill(sequence, embeddings, True), output.logits[0].numpy()) < 1e-4
    for token in range(40):
        with torch.no_grad():
            output = model(torch.tensor([[token]]), past_key_values=output.past_key_values, use_cache=True)
        assert relative(decoder.decode([sequence], [token]), output.logits[0].numpy()) < 1e-4


@pytest.mark.parametrize(("cache_type", "bound"), [("float16", 1e-3), ("bfloat16", 2e-2), ("int8", 2e-2)])
def test_a_smaller_cache_is_close(tmp_path: Path, cache_type: CacheType, bound: float) -> None:
    bundle = write_bundle(tmp_path, manifest_of("qwen2"))
    ids, features = prompt(bundle, 150)
    logits = []
    kinds: tuple[CacheType, CacheType] = ("float32", cache_type)
    for kind in kinds:
        decoder = load_decoder(bundle, cache_tokens=256, cache_type=kind)
        sequence = decoder.new_sequence()
        first = decoder.prefill(sequence, decoder.embed(ids, features, IMAGE), True)
        logits.append(np.concatenate([first, decoder.decode([sequence], [9])]))
    assert 1e-6 < relative(logits[1], logits[0]) < bound


@pytest.mark.parametrize("cache_type", ["float16", "bfloat16"])
def test_beside_bf16_weights_sixteen_bits_in_the_cache_keep_the_cosine(
    tmp_path: Path, cache_type: CacheType
) -> None:
    bundle = write_bundle(tmp_path, manifest_of("qwen2", "bf16"))
    ids, features = prompt(bundle, 500)
    logits = []
    kinds: tuple[CacheType, CacheType] = ("float32", cache_type)
    for kind in kinds:
        decoder = load_decoder(bundle, cache_tokens=512, cache_type=kind)
        sequence = decoder.new_sequence()
        first = decoder.prefill(sequence, decoder.embed(ids, features, IMAGE), True)
        logits.append(np.concatenate([first, decoder.decode([sequence], [9])]))
    assert cosine(logits[1], logits[0]) >= BFLOAT16.cosine
