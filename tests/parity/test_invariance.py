"""What a result must not depend on: the batch of a tile, the chunks of a prompt, the other sequences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bundle.tiny import write_tiny
from internvl_rt.engines.engine import Engine
from parity.compare import ENGINES, opened, relative_error

HIDDEN = 64


@pytest.fixture(scope="module", params=["fp32", "bf16", "int8", "int4"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    vision = "int8" if request.param == "int8" else None
    return write_tiny(tmp_path_factory.mktemp("invariance") / "bundle", request.param, vision, graphs=True)


@pytest.fixture(params=ENGINES)
def model(request: pytest.FixtureRequest, folder: Path) -> Iterator[Engine]:
    with opened(request.param, folder) as engine:
        yield engine


def prompt(n: int, seed: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, HIDDEN), dtype=np.float32)


def test_a_tile_is_the_same_in_every_batch(model: Engine) -> None:
    pixels = np.random.default_rng(0).standard_normal((5, 3, 56, 56), dtype=np.float32)
    together = model.encode_tiles(pixels).features
    reversed_order = model.encode_tiles(pixels[::-1]).features[::-1]
    np.testing.assert_array_equal(together, reversed_order)
    for tile in range(5):
        np.testing.assert_array_equal(model.encode_tiles(pixels[tile : tile + 1]).features[0], together[tile])


def test_a_prompt_is_the_same_in_every_cut(model: Engine) -> None:
    embeddings = prompt(90, 1)
    whole = model.prefill(model.new_sequence(), embeddings, all_logits=True)
    for sizes in ([1, 89], [89, 1], [64, 26], [13] * 6 + [12]):
        sequence, parts, begin = model.new_sequence(), [], 0
        for size in sizes:
            parts.append(model.prefill(sequence, embeddings[begin : begin + size], all_logits=True))
            begin += size
        assert relative_error(np.concatenate(parts), whole) < 1e-5
        assert model.length(sequence) == 90


def test_a_decoded_token_is_a_prefilled_one(model: Engine) -> None:
    embeddings = prompt(20, 2)
    sequence = model.new_sequence()
    model.prefill(sequence, embeddings)
    decoded = model.decode([sequence], [17])
    tokens = model.embed(np.array([17]), None)
    prefilled = model.prefill(model.new_sequence(), np.concatenate([embeddings, tokens]))
    assert relative_error(decoded, prefilled) < 1e-5


def test_sequences_do_not_meet(model: Engine) -> None:
    """Several sequences of different lengths, forked and dropped on the way, each as if it were alone."""
    prompts = {name: prompt(n, n) for name, n in (("a", 3), ("b", 40), ("c", 77))}
    tokens = {"a": [5, 6, 7], "b": [8, 9, 10], "c": [11, 12, 13]}
    alone = {}
    for name, embeddings in prompts.items():
        sequence = model.new_sequence()
        model.prefill(sequence, embeddings)
        alone[name] = [model.decode([sequence], [token])[0] for token in tokens[name]]
        model.drop(sequence)

    sequences = {name: model.new_sequence() for name in prompts}
    for name, embeddings in prompts.items():
        model.prefill(sequences[name], embeddings)
    forked = model.fork(sequences["b"])
    for step in range(3):
        order = ["a", "b", "c"] if step != 1 else ["c", "a", "b"]
        rows = model.decode([sequences[n] for n in order], [tokens[n][step] for n in order])
        for name, row in zip(order, rows, strict=True):
            np.testing.assert_array_equal(row, alone[name][step])
    # The fork was made before its origin went on, and sees none of that.
    for step in range(3):
        row = model.decode([forked], [tokens["b"][step]])[0]
        np.testing.assert_array_equal(row, alone["b"][step])
        if step == 0:
            model.drop(sequences["b"])
