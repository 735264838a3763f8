"""The native engine behind the interface: both sides of the model, arguments that do not fit, and its end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bundle.tiny import write_tiny
from engines.native_bundles import manifest_of, write_bundle
from internvl_rt.bundle.bundle import Bundle, open_bundle
from internvl_rt.engines.engine import Engine
from internvl_rt.engines.native import PREFILL_CHUNK, NativeEngine
from internvl_rt.engines.onnxruntime import OnnxEngine
from internvl_rt.errors import BundleError, CacheFullError, DeviceError, InternVLError, PromptError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("engine"), manifest_of("llama", "int8"))


@pytest.fixture
def engine(bundle: Bundle) -> NativeEngine:
    return NativeEngine(bundle, cache_tokens=1000, threads=2)


def embeddings(engine: NativeEngine, length: int) -> np.ndarray:
    return engine.embed(np.arange(length) % 300 + 10, None)


@pytest.mark.parametrize("weights", ["fp32", "int4"])
def test_both_engines_answer_alike(tmp_path: Path, weights: str) -> None:
    """Picture, splice, prefill and decode: the same tokens, and logits to 1e-4."""
    bundle = open_bundle(write_tiny(tmp_path / "bundle", weights, "fp32", graphs=True))
    manifest = bundle.manifest
    engines: list[Engine] = [
        NativeEngine(bundle, cache_tokens=512),
        OnnxEngine(bundle, cache_tokens=512),
    ]
    size = manifest.vision.image_size
    pixels = np.random.default_rng(1).standard_normal((2, 3, size, size)).astype(np.float32)
    image = [manifest.prompt.image_context_id] * (2 * manifest.tokens_per_tile)
    ids = np.array([20, 21, *image, 22, 23, 24])
    found = []
    for engine in engines:
        features = engine.encode_tiles(pixels).features.reshape(len(image), -1)
        sequence = engine.new_sequence()
        rows = [engine.prefill(sequence, engine.embed(ids, features), True)]
        rows += [engine.decode([sequence], [token]) for token in range(30, 50)]
        found.append(np.concatenate(rows))
        engine.close()
    assert np.abs(found[0] - found[1]).max() < 1e-4 * np.abs(found[1]).max()


def test_a_bundle_without_graphs_serves_text(engine: NativeEngine) -> None:
    sequence = engine.new_sequence()
    assert engine.prefill(sequence, embeddings(engine, 5)).shape == (1, 331)
    with pytest.raises(BundleError, match="no vit"):
        engine.encode_tiles(np.zeros((1, 3, 56, 56), np.float32))


def test_the_cache_is_as_large_as_asked_for_in_whole_blocks(engine: NativeEngine) -> None:
    assert engine.cache_tokens == 1024
    assert engine.free_tokens == 1024
    sequence = engine.new_sequence()
    engine.prefill(sequence, embeddings(engine, 65))
    assert engine.free_tokens == 1024 - 128
    engine.drop(sequence)
    assert engine.free_tokens == 1024


def test_a_full_cache_fails_the_call_and_nothing_else(engine: NativeEngine) -> None:
    running, greedy = engine.new_sequence(), engine.new_sequence()
    engine.prefill(running, embeddings(engine, 64))
    wanted = engine.decode([engine.fork(running)], [40])
    with pytest.raises(CacheFullError, match="needs 16"):
        engine.prefill(greedy, embeddings(engine, 1000))
    assert engine.length(greedy) == 0
    np.testing.assert_array_equal(engine.decode([running], [40]), wanted)


def test_a_prefill_can_be_watched_and_ended(engine: NativeEngine) -> None:
    sequence = engine.new_sequence()
    engine.prefill(sequence, embeddings(engine, 10))
    done: list[int] = []
    whole = engine.prefill(engine.fork(sequence), embeddings(engine, 700), progress=done.append)
    assert done == [PREFILL_CHUNK, 2 * PREFILL_CHUNK]
    engine.drop(2)
    free = engine.free_tokens

    def stop(tokens: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.prefill(sequence, embeddings(engine, 700), progress=stop)
    assert engine.length(sequence) == 10
    assert engine.free_tokens == free
    np.testing.assert_array_equal(engine.prefill(sequence, embeddings(engine, 700)), whole)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((3, 95), np.float32),
        np.zeros((3, 96), np.float64),
        np.zeros((0, 96), np.float32),
        np.zeros(96, np.float32),
        np.zeros((1, 3, 96), np.float32),
    ],
)
def test_embeddings_of_another_shape_or_type(engine: NativeEngine, wrong: np.ndarray) -> None:
    sequence = engine.new_sequence()
    with pytest.raises(PromptError, match="expected"):
        engine.prefill(sequence, wrong)
    assert engine.length(sequence) == 0


def test_embeddings_need_not_be_contiguous(engine: NativeEngine) -> None:
    rows = embeddings(engine, 20)
    wide = np.repeat(rows, 2, axis=0)
    logits = [engine.prefill(engine.new_sequence(), array) for array in (rows, wide[::2])]
    np.testing.assert_array_equal(*logits)


def test_ids_and_features_that_do_not_fit(engine: NativeEngine, bundle: Bundle) -> None:
    image = bundle.manifest.prompt.image_context_id
    features = np.zeros((2, 96), np.float32)
    for ids in ([-1], [331], [1 << 40]):
        with pytest.raises(PromptError, match="outside of the vocabulary"):
            engine.embed(np.array(ids), None)
    for ids, given in (([image, 9], features), ([9], features), ([image], None)):
        with pytest.raises(PromptError, match="expected as many"):
            engine.embed(np.array(ids), given)
    for wrong in (np.zeros((2, 95), np.float32), np.zeros((2, 96), np.float16), np.zeros(192, np.float32)):
        with pytest.raises(PromptError, match="expected float32"):
            engine.embed(np.array([image, image]), wrong)
    for array in (np.zeros((1, 2), np.int64), np.zeros(2, np.float32)):
        with pytest.raises(PromptError, match="expected int64"):
            engine.embed(array, None)
    assert engine.embed(np.zeros(0, np.int64), None).shape == (0, 96)


def test_sequences_and_tokens_that_do_not_fit(engine: NativeEngine) -> None:
    sequence = engine.new_sequence()
    with pytest.raises(PromptError, match="named twice"):
        engine.decode([sequence, sequence], [1, 2])
    with pytest.raises(PromptError, match="one token for each"):
        engine.decode([sequence], [1, 2])
    with pytest.raises(PromptError, match="no sequence 99"):
        engine.decode([99], [1])
    with pytest.raises(PromptError, match="outside of the vocabulary"):
        engine.decode([sequence], [331])
    for call in (engine.fork, engine.drop, engine.length):
        with pytest.raises(PromptError, match="no sequence 99"):
            call(99)
    assert engine.length(sequence) == 0
    assert engine.free_tokens == engine.cache_tokens


def test_sizes_that_are_not_possible(bundle: Bundle) -> None:
    with pytest.raises(DeviceError, match="KV cache"):
        NativeEngine(bundle, cache_tokens=1 << 50)
    with pytest.raises(DeviceError, match="threads"):
        NativeEngine(bundle, cache_tokens=64, threads=-1)


def test_a_closed_engine_says_so(engine: NativeEngine) -> None:
    engine.close()
    engine.close()
    with pytest.raises(InternVLError, match="closed"):
        engine.new_sequence()
    with pytest.raises(InternVLError, match="closed"):
        engine.encode_tiles(np.zeros((1, 3, 56, 56), np.float32))
