"""The onnxruntime engine as a machine: sequences, bounds, failures, threads. Numbers are in tests/parity."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bundle.tiny import write_tiny
from internvl_rt.bundle.bundle import Bundle, open_bundle
from internvl_rt.bundle.manifest import LLM_GRAPH
from internvl_rt.engines.onnxruntime import OnnxEngine
from internvl_rt.engines.onnxruntime.cache import GRANULARITY, SequenceCache
from internvl_rt.engines.onnxruntime.decoder import OnnxDecoder
from internvl_rt.engines.onnxruntime.session import Session
from internvl_rt.errors import (
    BundleError,
    CacheFullError,
    DeviceError,
    ImageError,
    InternVLError,
    PromptError,
)

Floats = npt.NDArray[np.float32]

CACHE_TOKENS = 600
HIDDEN = 64


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(write_tiny(tmp_path_factory.mktemp("engine") / "bundle", graphs=True))


@pytest.fixture
def engine(bundle: Bundle) -> Iterator[OnnxEngine]:
    made = OnnxEngine(bundle, cache_tokens=CACHE_TOKENS, threads=2)
    yield made
    made.close()


def prompt(n: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((n, HIDDEN), dtype=np.float32)


def fresh(engine: OnnxEngine, embeddings: Floats) -> Floats:
    """The last logits of a prompt in a sequence of its own."""
    sequence = engine.new_sequence()
    logits = engine.prefill(sequence, embeddings)
    engine.drop(sequence)
    return logits


def test_the_cache_is_updated_in_place(engine: OnnxEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs and outputs of the graph are one buffer, and only the new positions change in it."""
    seen: list[tuple[list[int], list[int]]] = []
    run = Session.run

    def record(
        self: Session, inputs: dict[str, Floats], outputs: dict[str, Floats], step: Callable[[], None] | None
    ) -> None:
        addresses = [
            [a.ctypes.data for name, a in arrays.items() if name.startswith("cache.")]
            for arrays in (inputs, outputs)
        ]
        seen.append((addresses[0], addresses[1]))
        run(self, inputs, outputs, step)

    monkeypatch.setattr(Session, "run", record)
    sequence = engine.new_sequence()
    engine.prefill(sequence, prompt(5))
    cache = _cache(engine, sequence)
    before = [buffer.copy() for buffer in cache.buffers]
    engine.decode([sequence], [7])
    for old, new in zip(before, cache.buffers, strict=True):
        changed = np.flatnonzero((old != new).any(axis=(0, 1, 3)))
        assert changed.tolist() == [5]
    assert len(seen) == 2
    assert len(seen[0][0]) == 4  # keys and values of two layers
    assert seen[0] == seen[1]
    assert all(inputs == outputs for inputs, outputs in seen)


def test_how_a_prompt_is_cut_does_not_matter(engine: OnnxEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = prompt(300)
    whole = engine.prefill(engine.new_sequence(), embeddings, all_logits=True)
    monkeypatch.setattr("internvl_rt.engines.onnxruntime.decoder.MAX_CHUNK", 37)
    sequence = engine.new_sequence()
    in_chunks = engine.prefill(sequence, embeddings[:211], all_logits=True)
    one_by_one = [engine.prefill(sequence, embeddings[i : i + 1]) for i in range(211, 300)]
    np.testing.assert_allclose(np.concatenate([in_chunks, *one_by_one]), whole, rtol=0, atol=2e-5)
    assert engine.length(sequence) == 300


def test_a_chunk_is_shorter_where_scores_would_be_large(bundle: Bundle) -> None:
    decoder = OnnxDecoder(bundle, 1 << 20, 1)
    heads = bundle.manifest.llm.heads
    assert decoder._chunk(GRANULARITY) == 512
    for capacity in (1 << 16, 1 << 18):
        assert decoder._chunk(capacity) * capacity * heads * 4 <= 128 << 20


def test_decode_rows_are_independent(engine: OnnxEngine) -> None:
    prompts = [prompt(n, seed=n) for n in (3, 300, 17)]
    alone = []
    for embeddings, token in zip(prompts, (5, 6, 7), strict=True):
        sequence = engine.new_sequence()
        engine.prefill(sequence, embeddings)
        alone.append(engine.decode([sequence], [token])[0])
        engine.drop(sequence)
    sequences = [engine.new_sequence() for _ in prompts]
    for sequence, embeddings in zip(sequences, prompts, strict=True):
        engine.prefill(sequence, embeddings)
    together = engine.decode(sequences, [5, 6, 7])
    np.testing.assert_array_equal(together, np.stack(alone))
    assert [engine.length(s) for s in sequences] == [4, 301, 18]


@pytest.mark.parametrize("chunk", [512, 16])
def test_runs_agree_with_their_tokens_one_by_one(
    engine: OnnxEngine, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """The longest sequence grows beyond the trained 512 tokens, where every token has its frequencies."""
    monkeypatch.setattr("internvl_rt.engines.onnxruntime.decoder.MAX_CHUNK", chunk)
    counts = [1, 12, 40]
    tokens = [[5 + i + j for j in range(count)] for i, count in enumerate(counts)]
    together = [token for run in tokens for token in run]
    prompts = [prompt(n, seed=n) for n in (9, 505, 3)]
    wanted = []
    for embeddings, run in zip(prompts, tokens, strict=True):
        sequence = engine.new_sequence()
        engine.prefill(sequence, embeddings)
        wanted.append([engine.decode([sequence], [token])[0] for token in run][-1])
        engine.drop(sequence)
    sequences = [engine.new_sequence() for _ in prompts]
    for sequence, embeddings in zip(sequences, prompts, strict=True):
        engine.prefill(sequence, embeddings)
    for counted in ([1, 12, 39], [1, 52], [0, 13, 40]):
        with pytest.raises(PromptError, match="as many as its count says"):
            engine.decode(sequences, together, counted)
    with pytest.raises(CacheFullError, match="holds 600 tokens, 83 are free, 97 more are needed"):
        engine.decode(sequences, list(range(97)), [1, 1, 95])
    found = engine.decode(sequences, together, counts)
    np.testing.assert_allclose(found, np.stack(wanted), rtol=0, atol=2e-5)
    assert [engine.length(s) for s in sequences] == [10, 517, 43]


def test_a_fork_goes_its_own_way(engine: OnnxEngine) -> None:
    origin = engine.new_sequence()
    engine.prefill(origin, prompt(20))
    fork = engine.fork(origin)
    assert engine.length(fork) == 20
    np.testing.assert_array_equal(engine.decode([fork], [3]), engine.decode([origin], [3]))
    first = engine.decode([fork], [4])
    engine.decode([origin], [5])
    engine.drop(origin)
    again = engine.new_sequence()
    engine.prefill(again, prompt(20))
    engine.decode([again], [3])
    np.testing.assert_array_equal(engine.decode([again], [4]), first)


def test_growing_keeps_what_is_there(engine: OnnxEngine) -> None:
    """A sequence that outgrows its buffers continues as one that never had to."""
    embeddings = prompt(GRANULARITY + 40)
    expected = fresh(engine, embeddings)
    sequence = engine.new_sequence()
    engine.prefill(sequence, embeddings[: GRANULARITY - 1])
    for i in range(GRANULARITY - 1, len(embeddings)):
        logits = engine.prefill(sequence, embeddings[i : i + 1])
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5)


def test_a_full_cache_changes_nothing(engine: OnnxEngine) -> None:
    assert engine.cache.tokens == CACHE_TOKENS
    long, short = engine.new_sequence(), engine.new_sequence()
    engine.prefill(long, prompt(CACHE_TOKENS - 10))
    engine.prefill(short, prompt(9, seed=1))
    with pytest.raises(CacheFullError, match="holds 600 tokens, 1 are free, 2 more are needed"):
        engine.decode([long, short], [1, 2])
    with pytest.raises(CacheFullError):
        engine.prefill(short, prompt(2))
    with pytest.raises(CacheFullError):
        engine.fork(short)
    assert (engine.length(long), engine.length(short)) == (CACHE_TOKENS - 10, 9)
    logits = engine.decode([short], [2])  # the last free place
    engine.drop(long)
    again = engine.new_sequence()
    engine.prefill(again, prompt(9, seed=1))
    np.testing.assert_array_equal(engine.decode([again], [2]), logits)


def test_no_memory_for_a_longer_sequence(engine: OnnxEngine) -> None:
    sequence = engine.new_sequence()
    engine.prefill(sequence, prompt(3))
    cache = _cache(engine, sequence)
    before = list(cache.buffers)
    with pytest.raises(DeviceError, match="no memory for the keys and values"):
        cache.make_room(1 << 44)
    assert cache.capacity == GRANULARITY
    assert all(a is b for a, b in zip(before, cache.buffers, strict=True))
    engine.decode([sequence], [1])


def test_every_token_of_the_cache_can_be_used(engine: OnnxEngine) -> None:
    """Buffers grow ahead of their sequence, and that does not take room away from another."""
    sequences = [engine.new_sequence() for _ in range(CACHE_TOKENS // 100)]
    for sequence in sequences:
        engine.prefill(sequence, prompt(100))
    with pytest.raises(CacheFullError):
        engine.decode(sequences[:1], [1])


def test_a_run_that_fails_leaves_the_sequence(engine: OnnxEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = prompt(30)
    expected = fresh(engine, embeddings)
    sequence = engine.new_sequence()
    engine.prefill(sequence, embeddings[:10])
    monkeypatch.setattr("internvl_rt.engines.onnxruntime.decoder.MAX_CHUNK", 16)
    run, calls = Session.run, []

    def fail_second(
        self: Session, inputs: dict[str, Floats], outputs: dict[str, Floats], step: Callable[[], None] | None
    ) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        run(self, inputs, outputs, step)

    monkeypatch.setattr(Session, "run", fail_second)
    with pytest.raises(KeyboardInterrupt):
        engine.prefill(sequence, prompt(40, seed=9))
    assert engine.length(sequence) == 10
    np.testing.assert_allclose(engine.prefill(sequence, embeddings[10:]), expected, rtol=0, atol=2e-5)


class HeldRuns:
    """Runs of ONNX Runtime begin only when they are told to end, or let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.running = threading.Event()
        self.let_go = threading.Event()
        self.failures: list[str] = []
        compute = Session._compute

        def held(session: Session, binding: Any, options: Any) -> None:
            self.running.set()
            while not (options.terminate or self.let_go.is_set()):
                sleep(0.001)
            try:
                compute(session, binding, options)
            except InternVLError as error:
                self.failures.append(str(error))
                raise

        monkeypatch.setattr(Session, "_compute", held)


@pytest.fixture
def held_runs(monkeypatch: pytest.MonkeyPatch) -> HeldRuns:
    return HeldRuns(monkeypatch)


def calls_of(engine: OnnxEngine) -> dict[str, Callable[[Callable[[int], None] | None], Any]]:
    pixels = np.random.default_rng(0).standard_normal((2, 3, 56, 56), dtype=np.float32)
    sequence = engine.new_sequence()
    return {
        "encode": lambda progress: engine.encode_tiles(pixels, progress).features,
        "prefill": lambda progress: engine.prefill(sequence, prompt(30), progress=progress),
    }


@pytest.mark.parametrize("name", ["encode", "prefill"])
def test_a_run_is_ended_in_its_middle(
    engine: OnnxEngine, bundle: Bundle, held_runs: HeldRuns, name: str
) -> None:
    call = calls_of(engine)[name]

    def stop(done: int) -> None:
        assert done == 0
        raise KeyError(done)

    with pytest.raises(KeyError):
        call(stop)
    assert len(held_runs.failures) == 1, "it ended before the call did"
    assert "terminate" in held_runs.failures[0]
    held_runs.let_go.set()
    free = engine.free_tokens
    found = call(None)
    assert engine.free_tokens == free - (30 if name == "prefill" else 0)
    fresh_engine = OnnxEngine(bundle, cache_tokens=CACHE_TOKENS, threads=2)
    np.testing.assert_array_equal(found, calls_of(fresh_engine)[name](None))


@pytest.mark.parametrize("name", ["encode", "prefill", "decode"])
def test_ctrl_c_ends_a_run_in_its_middle(engine: OnnxEngine, held_runs: HeldRuns, name: str) -> None:
    held_runs.let_go.set()
    calls = calls_of(engine)
    sequence = engine.new_sequence()
    engine.prefill(sequence, prompt(3))
    calls["decode"] = lambda progress: engine.decode([sequence], [7])
    held_runs.let_go.clear()
    held_runs.running.clear()

    def interrupt() -> None:
        held_runs.running.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        calls[name](None)
    assert len(held_runs.failures) == 1
    held_runs.let_go.set()
    assert engine.length(sequence) == 3
    assert np.isfinite(calls[name](None)).all()


def test_tokens_are_decoded_between_the_chunks_of_a_prefill(
    engine: OnnxEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("internvl_rt.engines.onnxruntime.decoder.MAX_CHUNK", 16)
    long, short = engine.new_sequence(), engine.new_sequence()
    engine.prefill(short, prompt(5))
    expected = fresh(engine, prompt(100))
    done: list[int] = []
    refused: list[str] = []

    def decode(n: int) -> None:
        if n == 0:
            return
        done.append(n)
        thread = threading.Thread(target=lambda: engine.decode([short], [n]))
        thread.start()
        thread.join()
        for call in (
            lambda: engine.drop(long),
            lambda: engine.fork(long),
            lambda: engine.decode([long], [1]),
        ):
            with pytest.raises(PromptError, match="being appended to"):
                call()
            refused.append("yes")

    free = engine.free_tokens
    np.testing.assert_array_equal(engine.prefill(long, prompt(100), progress=decode), expected)
    assert done == [16, 32, 48, 64, 80, 96]
    assert engine.length(short) == 5 + len(done)
    assert engine.free_tokens == free - 100 - len(done)
    assert len(refused) == 3 * len(done)


@pytest.mark.parametrize(
    "embeddings",
    [
        np.zeros((2, HIDDEN + 1), np.float32),
        np.zeros((0, HIDDEN), np.float32),
        np.zeros(HIDDEN, np.float32),
        np.zeros((2, HIDDEN), np.float64),
        [[0.0] * HIDDEN],
    ],
)
def test_wrong_embeddings(engine: OnnxEngine, embeddings: Floats) -> None:
    sequence = engine.new_sequence()
    with pytest.raises(PromptError, match="embeddings is"):
        engine.prefill(sequence, embeddings)
    assert engine.length(sequence) == 0


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 3, 56, 55), np.float32),
        np.zeros((0, 3, 56, 56), np.float32),
        np.zeros((3, 56, 56), np.float32),
        np.zeros((1, 3, 56, 56), np.uint8),
        None,
    ],
)
def test_wrong_pixels(engine: OnnxEngine, pixels: Floats) -> None:
    with pytest.raises(ImageError, match="pixel_values is"):
        engine.encode_tiles(pixels)


def test_wrong_sequences_and_tokens(engine: OnnxEngine) -> None:
    sequence = engine.new_sequence()
    engine.prefill(sequence, prompt(3))
    with pytest.raises(PromptError, match="several different sequences"):
        engine.decode([sequence, sequence], [1, 2])
    with pytest.raises(PromptError, match="several different sequences"):
        engine.decode([sequence], [1, 2])
    for token in (-1, 331):
        with pytest.raises(PromptError, match=f"token id {token} is outside"):
            engine.decode([sequence], [token])
    with pytest.raises(InternVLError, match="no sequence 99"):
        engine.length(99)
    engine.drop(sequence)
    with pytest.raises(InternVLError, match="no sequence"):
        engine.prefill(sequence, prompt(1))


def test_splicing_counts(engine: OnnxEngine, bundle: Bundle) -> None:
    context = bundle.manifest.prompt.image_context_id
    ids = np.array([1, context, 2, context])
    features = prompt(2)
    embeddings = engine.embed(ids, features)
    np.testing.assert_array_equal(embeddings[[1, 3]], features)
    np.testing.assert_array_equal(embeddings[[0, 2]], engine.embed(np.array([1, 2]), None))
    for wrong in (None, features[:1], prompt(3)):
        with pytest.raises(PromptError, match="2 image context tokens"):
            engine.embed(ids, wrong)
    with pytest.raises(PromptError, match="features is"):
        engine.embed(ids, np.zeros((2, HIDDEN - 1), np.float32))


def test_a_tile_does_not_depend_on_the_others(engine: OnnxEngine) -> None:
    pixels = np.random.default_rng(0).standard_normal((5, 3, 56, 56), dtype=np.float32)
    together = engine.encode_tiles(pixels)
    alone = [engine.encode_tiles(pixels[i : i + 1]).features for i in range(5)]
    np.testing.assert_array_equal(together.features, np.concatenate(alone))
    strided = engine.encode_tiles(np.repeat(pixels, 2, axis=3)[:, :, :, ::2])
    np.testing.assert_array_equal(strided.features, together.features)
    assert together.vit_ms > 0
    assert together.projector_ms > 0


def test_many_threads(engine: OnnxEngine) -> None:
    pixels = np.random.default_rng(0).standard_normal((2, 3, 56, 56), dtype=np.float32)
    features = engine.encode_tiles(pixels).features
    expected = [fresh(engine, prompt(20, seed)) for seed in range(4)]
    wrong: list[str] = []

    def work(seed: int) -> None:
        for _ in range(5):
            if not np.array_equal(fresh(engine, prompt(20, seed)), expected[seed]):
                wrong.append(f"logits of {seed}")
            if not np.array_equal(engine.encode_tiles(pixels).features, features):
                wrong.append(f"features of {seed}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_closing(bundle: Bundle) -> None:
    engine = OnnxEngine(bundle, cache_tokens=10, threads=1)
    sequence = engine.new_sequence()
    engine.close()
    engine.close()
    for call in (
        lambda: engine.prefill(sequence, prompt(1)),
        lambda: engine.encode_tiles(np.zeros((1, 3, 56, 56), np.float32)),
        lambda: engine.decode([sequence], [1]),
        engine.new_sequence,
    ):
        with pytest.raises(InternVLError, match="closed"):
            call()


def test_a_graph_that_does_not_load(
    bundle: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle.folder, folder)
    (folder / LLM_GRAPH).write_bytes(b"not a graph")
    broken = Bundle(folder, bundle.manifest, bundle.places)
    with pytest.raises(BundleError, match=r"llm\.onnx: ONNX Runtime .* cannot load"):
        OnnxEngine(broken, cache_tokens=10, threads=1)
    assert capfd.readouterr() == ("", "")


def _cache(engine: OnnxEngine, sequence: int) -> SequenceCache:
    assert engine._decoder is not None
    return engine._decoder._sequences[sequence]
