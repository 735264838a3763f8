"""What holds to the last bit: calls, chunks, company, sharing and threads change nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from engines.native_bundles import manifest_of, write_bundle
from internvl_rt import _core
from internvl_rt.bundle.bundle import Bundle
from internvl_rt.bundle.manifest import Rope
from internvl_rt.engines.native import CacheType, load_decoder
from parity.compare import BFLOAT16, INTEGERS, cosine


@pytest.fixture(scope="module", params=["fp32", "bf16", "int8", "int4"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("bits"), manifest_of("qwen2", request.param))


def embeddings_of(bundle: Bundle, length: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.standard_normal((length, bundle.manifest.llm.hidden_size)).astype(np.float32)


def all_logits(
    bundle: Bundle,
    embeddings: np.ndarray,
    cuts: list[int],
    chunk: int = 256,
    threads: int = 2,
    cache_type: CacheType = "float32",
) -> np.ndarray:
    decoder = load_decoder(
        bundle, cache_tokens=1024, prefill_chunk=chunk, threads=threads, cache_type=cache_type
    )
    sequence = decoder.new_sequence()
    parts = np.split(embeddings, cuts)
    return np.concatenate([decoder.prefill(sequence, part, True) for part in parts])


@pytest.mark.parametrize("cache_type", ["float32", "bfloat16"])
def test_calls_chunks_and_threads_change_no_bit(bundle: Bundle, cache_type: CacheType) -> None:
    # Long enough for two spans of attention.
    embeddings = embeddings_of(bundle, 600)
    whole = all_logits(bundle, embeddings, [], cache_type=cache_type)
    for cuts, chunk, threads in [([], 64, 1), ([1, 2, 130, 599], 256, 3), ([300], 7, 2), ([64, 512], 37, 1)]:
        np.testing.assert_array_equal(all_logits(bundle, embeddings, cuts, chunk, threads, cache_type), whole)


def test_the_last_logits_alone_are_the_same_bits(bundle: Bundle) -> None:
    embeddings = embeddings_of(bundle, 300)
    whole = all_logits(bundle, embeddings, [])
    decoder = load_decoder(bundle, cache_tokens=1024)
    sequence = decoder.new_sequence()
    np.testing.assert_array_equal(decoder.prefill(sequence, embeddings), whole[-1:])
    # ... and what the shortened last layer left in the cache is right.
    more = embeddings_of(bundle, 3, seed=1)
    wanted = all_logits(bundle, np.concatenate([embeddings, more]), [])[-1:]
    np.testing.assert_array_equal(decoder.prefill(sequence, more), wanted)


@pytest.mark.parametrize("cache_type", get_args(CacheType))
def test_decoding_equals_prefilling_the_same_tokens(bundle: Bundle, cache_type: CacheType) -> None:
    decoder = load_decoder(bundle, cache_tokens=2048, cache_type=cache_type)
    start, tokens = embeddings_of(bundle, 505), list(range(20, 50))
    one_by_one = decoder.new_sequence()
    decoder.prefill(one_by_one, start)
    stepwise = np.concatenate([decoder.decode([one_by_one], [token]) for token in tokens])
    at_once = decoder.new_sequence()
    whole = np.concatenate([start, decoder.embed(tokens, None, -1)])
    np.testing.assert_array_equal(decoder.prefill(at_once, whole, True)[-len(tokens) :], stepwise)


def test_company_changes_no_bit(bundle: Bundle) -> None:
    """One to twenty sequences of different lengths, decoded together and alone."""
    lengths = [1, 63, 64, 65, 127, 128, 200, 3, 9, 31, 5, 90, 17, 2, 100, 77, 12, 1, 6, 40]
    decoder = load_decoder(bundle, cache_tokens=4096, threads=3)
    starts = [embeddings_of(bundle, length, seed) for seed, length in enumerate(lengths)]
    alone = []
    for start in starts:
        sequence = decoder.new_sequence()
        decoder.prefill(sequence, start)
        alone.append(np.concatenate([decoder.decode([sequence], [step + 10]) for step in range(3)]))
        decoder.drop(sequence)
    for count in (2, 3, 4, 5, 20):
        sequences = [decoder.new_sequence() for _ in range(count)]
        for sequence, start in zip(sequences, starts, strict=False):
            decoder.prefill(sequence, start)
        together = np.stack([decoder.decode(sequences, [step + 10] * count) for step in range(3)], axis=1)
        for found, wanted in zip(together, alone, strict=False):
            np.testing.assert_array_equal(found, wanted)
        for sequence in sequences:
            decoder.drop(sequence)
    assert decoder.free_tokens == decoder.cache_tokens


@pytest.mark.parametrize("rope", ["none", "dynamic", "longrope"])
def test_runs_equal_their_tokens_one_by_one(tmp_path: Path, rope: str) -> None:
    """Also where the rotary frequencies change with every token, or in the middle of a run."""
    facts = {
        "none": Rope(1e6, "none", 1.0, 4096),
        "dynamic": Rope(1e6, "dynamic", 2.0, 50),
        "longrope": Rope(
            1e4, "longrope", 1.0, 4096, (1.0,) * 8, tuple(np.linspace(1, 9, 8)), 50, attention_factor=1.1
        ),
    }[rope]
    made = write_bundle(tmp_path, manifest_of("qwen2", "int8", facts))
    decoder = load_decoder(made, cache_tokens=2048)
    starts, counts = [44, 3, 48, 60], [20, 90, 1, 5]
    tokens = [[(11 * i + 5 * j) % 300 for j in range(count)] for i, count in enumerate(counts)]
    sequences, wanted = [], []
    for i, start in enumerate(starts):
        sequences.append(decoder.new_sequence())
        decoder.prefill(sequences[i], embeddings_of(made, start, i))
        alone = decoder.fork(sequences[i], start)
        wanted.append([decoder.decode([alone], [token])[0] for token in tokens[i]][-1])
    found = decoder.decode(sequences, [token for run in tokens for token in run], counts)
    np.testing.assert_array_equal(found, np.stack(wanted))
    if rope != "none":
        prefilled = decoder.new_sequence()
        decoder.prefill(prefilled, embeddings_of(made, starts[0], 0))
        at_once = decoder.prefill(prefilled, decoder.embed(tokens[0], None, -1))
        assert not np.array_equal(at_once[0], wanted[0]), "a prefill has the frequencies of its end"


def test_a_fork_continues_as_the_original_would(bundle: Bundle) -> None:
    decoder = load_decoder(bundle, cache_tokens=1024)
    start = embeddings_of(bundle, 100)

    def continued(token: int) -> np.ndarray:
        sequence = decoder.new_sequence()
        decoder.prefill(sequence, start)
        logits = np.concatenate([decoder.decode([sequence], [token]), decoder.decode([sequence], [token])])
        decoder.drop(sequence)
        return logits

    wanted = {token: continued(token) for token in (11, 12, 13)}
    original = decoder.new_sequence()
    decoder.prefill(original, start)
    used = decoder.cache_tokens - decoder.free_tokens
    forks = [original, *(decoder.fork(original, len(start)) for _ in range(2))]
    assert decoder.cache_tokens - decoder.free_tokens == used  # nothing was copied yet
    steps = [decoder.decode(forks, [11, 12, 13]) for _ in range(2)]
    for row, token in enumerate((11, 12, 13)):
        np.testing.assert_array_equal(np.stack([step[row] for step in steps]), wanted[token])
    # The full block is still shared: only the last one became three.
    assert decoder.cache_tokens - decoder.free_tokens == used + 2 * 64
    for sequence in forks:
        decoder.drop(sequence)
    assert decoder.free_tokens == decoder.cache_tokens


def test_threads_that_share_a_decoder_get_their_own_answers(bundle: Bundle) -> None:
    decoder = load_decoder(bundle, cache_tokens=2048, prefill_chunk=16)

    def answer(seed: int) -> np.ndarray:
        sequence = decoder.new_sequence()
        rows = [decoder.prefill(sequence, embeddings_of(bundle, 50 + seed, seed))]
        rows += [decoder.decode([sequence], [seed + step]) for step in range(5)]
        decoder.drop(sequence)
        return np.concatenate(rows)

    wanted = [answer(seed) for seed in range(6)]
    found: list[np.ndarray | None] = [None] * 6

    def run(seed: int) -> None:
        found[seed] = answer(seed)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(6):
        np.testing.assert_array_equal(found[seed], wanted[seed])


SCRIPT = """
import sys, numpy as np
from internvl_rt import _core
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.engines.native import load_decoder
bundle = open_bundle(sys.argv[1])
decoder = load_decoder(bundle, cache_tokens=1024)
sequence = decoder.new_sequence()
shape = 200, bundle.manifest.llm.hidden_size
embeddings = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
rows = [decoder.prefill(sequence, embeddings, True)]
for token in range(5):
    rows.append(decoder.decode([sequence], [token]))
np.save(sys.argv[2], np.concatenate(rows))
print(_core.instruction_set(), _core.multiplies_bfloat16())
"""


def test_every_instruction_set_computes_the_same_model(bundle: Bundle, tmp_path: Path) -> None:
    stored = bundle.manifest.precision.llm
    exact, rounded = [], []
    for name in _core.available_instruction_sets():
        out = tmp_path / f"{name}.npy"
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(bundle.folder), str(out)],
            env={
                **os.environ,
                "INTERNVL_RT_ISA": name,
                "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        used, multiplies_bfloat16 = done.stdout.split()
        assert used == name
        rounds = stored == "bf16" and multiplies_bfloat16 == "True"
        (rounded if rounds else exact).append(np.load(out))
    # Sets sum in their own order, and the portable one rounds a multiply-add twice. Where activations are
    # rounded to int8, one that lies between two integers may fall to the other side: a fraction of the
    # rounding's noise.
    for result in exact[1:]:
        if stored in ("int8", "int4"):
            assert cosine(result, exact[0]) > INTEGERS.cosine
        else:
            assert np.abs(result - exact[0]).max() < 1e-5 * np.abs(exact[0]).max()
    for result in rounded:
        assert cosine(result, exact[0]) > BFLOAT16.cosine
