"""The native engine behind the interface: both sides of the model, arguments that do not fit, and its end."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np
import pytest

from bundle.tiny import tiny_manifest, write_tiny
from engines.native_bundles import manifest_of, write_bundle
from internvl_rt.bundle.bundle import Bundle, open_bundle
from internvl_rt.engines.engine import Engine
from internvl_rt.engines.native import PREFILL_CHUNK, NativeEngine
from internvl_rt.engines.onnxruntime import OnnxEngine
from internvl_rt.errors import (
    BundleError,
    CacheFullError,
    DeviceError,
    ImageError,
    InternVLError,
    PromptError,
)
from internvl_rt.export.synthetic import write_synthetic


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
    """Picture, splice, prefill, decode: logits to 1e-4, or what rounding activations to int8 may change."""
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
    bound = 1e-4 if weights == "fp32" else 0.05
    assert np.abs(found[0] - found[1]).max() < bound * np.abs(found[1]).max()


def tiles(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 56, 56), np.float32)


def one_tile_at_a_time(bundle: Bundle) -> NativeEngine:
    return NativeEngine(bundle, cache_tokens=64, threads=2, activation_bytes=1)


WITHOUT_ONNXRUNTIME = """
import sys
from importlib import abc

class Refuse(abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("onnxruntime", "onnx"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
import numpy as np
import internvl_rt as ivl

with ivl.load(sys.argv[1]) as model:
    picture = np.random.default_rng(1).integers(0, 256, (90, 150, 3), np.uint8)
    answer = model.chat("What is this?", [picture], max_tiles=4, max_new_tokens=3, ignore_stop_tokens=True)
assert answer.timings.vit > 0 and answer.timings.projector > 0, answer.timings
assert not {"onnxruntime", "onnx"} & set(sys.modules)
print(answer.usage.tiles, len(answer.token_ids))
"""


def test_pictures_need_neither_onnxruntime_nor_graphs(tmp_path: Path) -> None:
    """A bundle without graphs, in a process in which ONNX Runtime cannot be imported."""
    folder = write_tiny(tmp_path / "bundle", graphs=False)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ONNXRUNTIME, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "3 3\n", "")


def test_the_time_of_both_stages_is_told(engine: NativeEngine) -> None:
    begun = perf_counter()
    encoded = engine.encode_tiles(tiles(3))
    wall = (perf_counter() - begun) * 1e3
    assert encoded.vit_ms > 0
    assert encoded.projector_ms > 0
    assert encoded.vit_ms + encoded.projector_ms <= wall


def test_a_tile_has_the_same_bits_in_every_batch(bundle: Bundle, engine: NativeEngine) -> None:
    pixels = tiles(5)
    together = engine.encode_tiles(pixels).features
    np.testing.assert_array_equal(one_tile_at_a_time(bundle).encode_tiles(pixels).features, together)
    np.testing.assert_array_equal(engine.encode_tiles(pixels[3:]).features, together[3:])


def test_encoding_can_be_watched_and_ended(bundle: Bundle) -> None:
    engine = one_tile_at_a_time(bundle)
    done: list[int] = []
    whole = engine.encode_tiles(tiles(4), done.append)
    # A slow machine is asked in the middle of a tile too.
    assert done == sorted(done)
    assert set(done) - {0} == {1, 2, 3}

    def stop(tiles: int) -> None:
        if tiles > 0:
            raise KeyError(tiles)

    with pytest.raises(KeyError, match="1"):
        engine.encode_tiles(tiles(4), stop)
    np.testing.assert_array_equal(engine.encode_tiles(tiles(4)).features, whole.features)


def test_an_interrupt_ends_encoding(bundle: Bundle) -> None:
    engine = one_tile_at_a_time(bundle)
    done: list[int] = []
    pixels = tiles(3000)

    def interrupt() -> None:
        while not done:
            sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    # `append` runs no Python code in which the interpreter itself would handle the signal.
    with pytest.raises(KeyboardInterrupt):
        engine.encode_tiles(pixels, done.append)
    assert done[-1] < 2999
    assert done == sorted(done)


@pytest.fixture(scope="module")
def slow_tower(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tower of 40 billion operations a tile: with one thread, a tile takes far longer than the 20 ms after
    which the engine asks whether to go on."""
    manifest = tiny_manifest("int8")
    manifest = dataclasses.replace(
        manifest,
        vision=dataclasses.replace(
            manifest.vision, image_size=448, hidden_size=192, heads=3, intermediate_size=768, layers=24
        ),
        tiling=dataclasses.replace(manifest.tiling, tile_size=448),
    )
    folder = tmp_path_factory.mktemp("slow") / "bundle"
    return open_bundle(write_synthetic(manifest, folder, tokenizer=None, graphs=False, progress=False))


def slow_tile() -> np.ndarray:
    return np.random.default_rng(5).standard_normal((1, 3, 448, 448), np.float32)


@pytest.mark.parametrize("call", [1, 3])
def test_a_tile_can_be_ended_in_its_middle(slow_tower: Bundle, call: int) -> None:
    engine = NativeEngine(slow_tower, cache_tokens=64, threads=1)
    whole = engine.encode_tiles(slow_tile()).features
    seen: list[int] = []

    def stop(done: int) -> None:
        seen.append(done)
        if len(seen) == call:
            raise KeyError(done)

    with pytest.raises(KeyError):
        engine.encode_tiles(slow_tile(), stop)
    assert seen == [0] * call
    np.testing.assert_array_equal(engine.encode_tiles(slow_tile()).features, whole)


def test_an_interrupt_ends_a_tile_in_its_middle(slow_tower: Bundle) -> None:
    engine = NativeEngine(slow_tower, cache_tokens=64, threads=1)
    whole = engine.encode_tiles(slow_tile()).features
    seen: list[int] = []

    def interrupt() -> None:
        while not seen:
            sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        engine.encode_tiles(slow_tile(), seen.append)
    np.testing.assert_array_equal(engine.encode_tiles(slow_tile()).features, whole)


def test_tokens_are_decoded_while_a_tile_is_encoded(slow_tower: Bundle) -> None:
    """Not one after the other: the tile waits in its middle until a token was decoded."""
    engine = NativeEngine(slow_tower, cache_tokens=64, threads=1)
    sequence = engine.new_sequence()
    engine.prefill(sequence, engine.embed(np.arange(5), None))
    decoded = threading.Event()

    def decode() -> None:
        for token in range(3):
            engine.decode([sequence], [token])
        decoded.set()

    thread = threading.Thread(target=decode)

    def wait(done: int) -> None:
        if thread.ident is None:
            thread.start()
        assert decoded.wait(60)

    engine.encode_tiles(slow_tile(), wait)
    thread.join()
    assert engine.length(sequence) == 8


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 3, 56, 55), np.float32),
        np.zeros((1, 3, 56, 56), np.float64),
        np.zeros((0, 3, 56, 56), np.float32),
        np.zeros((3, 56, 56), np.float32),
        [[1.0]],
    ],
)
def test_tiles_of_another_shape_or_type(engine: NativeEngine, wrong: Any) -> None:
    with pytest.raises(ImageError, match="expected"):
        engine.encode_tiles(wrong)


def test_tiles_need_not_be_contiguous(engine: NativeEngine) -> None:
    pixels = tiles(2)
    strided = np.repeat(pixels, 2, axis=3)[:, :, :, ::2]
    np.testing.assert_array_equal(engine.encode_tiles(strided).features, engine.encode_tiles(pixels).features)


def test_a_missing_vision_tensor_is_named(tmp_path: Path) -> None:
    bundle = open_bundle(write_tiny(tmp_path / "bundle"))
    places = {name: place for name, place in bundle.places.items() if name != "vit.layers.1.ls2"}
    with pytest.raises(BundleError, match=r"vit\.layers\.1\.ls2"):
        NativeEngine(dataclasses.replace(bundle, places=places), cache_tokens=64)


def test_pictures_and_text_from_several_threads(bundle: Bundle, engine: NativeEngine) -> None:
    """One team of threads serves both sides; neither waits for the other for ever, nor changes its result."""
    pixels, prompt = tiles(3), embeddings(engine, 40)
    features = engine.encode_tiles(pixels).features
    logits = engine.prefill(engine.new_sequence(), prompt)

    def encode() -> bool:
        return np.array_equal(engine.encode_tiles(pixels).features, features)

    def prefill() -> bool:
        return np.array_equal(engine.prefill(engine.new_sequence(), prompt), logits)

    with ThreadPoolExecutor(4) as pool:
        assert all(future.result() for future in [pool.submit(f) for f in (encode, prefill) * 5])


def test_the_cache_is_as_large_as_asked_for_in_whole_blocks(engine: NativeEngine) -> None:
    assert engine.cache.tokens == 1024
    assert engine.free_tokens == 1024
    sequence = engine.new_sequence()
    engine.prefill(sequence, embeddings(engine, 65))
    assert engine.free_tokens == 1024 - 128
    engine.drop(sequence)
    assert engine.free_tokens == 1024


def test_a_sequence_that_nobody_knows_any_more_is_dropped(engine: NativeEngine) -> None:
    sequence = engine.new_sequence()
    engine.prefill(sequence, embeddings(engine, 65))
    fork = engine.fork(sequence)
    engine.decode([fork], [40])
    assert engine.free_tokens == 1024 - 3 * 64
    del fork
    assert engine.free_tokens == 1024 - 2 * 64
    engine.drop(sequence)
    next_one = engine.new_sequence()
    engine.prefill(next_one, embeddings(engine, 1))
    del sequence  # dropped before: nobody else's place is freed
    assert engine.free_tokens == 1024 - 64
    engine.close()
    del next_one


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
    assert done == sorted(done)
    assert set(done) - {0} == {PREFILL_CHUNK, 2 * PREFILL_CHUNK}
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
    with pytest.raises(PromptError, match="as many tokens as its count says"):
        engine.decode([sequence], [1, 2])
    with pytest.raises(PromptError, match="no sequence 99"):
        engine.decode([99], [1])
    with pytest.raises(PromptError, match="outside of the vocabulary"):
        engine.decode([sequence], [331])
    for call in (engine.fork, engine.drop, engine.length):
        with pytest.raises(PromptError, match="no sequence 99"):
            call(99)
    assert engine.length(sequence) == 0
    assert engine.free_tokens == engine.cache.tokens


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
