"""Sampling against transformers' own processors, and against the distribution that they leave."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from internvl_rt import _core
from internvl_rt.errors import InternVLError, PromptError

Logits = npt.NDArray[np.float32]
NEGLIGIBLE = 1e-30  # weights are single precision: smaller ones go to zero
History = npt.NDArray[np.int64]
PLAIN: dict[str, Any] = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "history": np.zeros(0, np.int64),
}


def transformers_scores(logits: Logits, options: dict[str, Any], processors: str = "rtkp") -> torch.Tensor:
    """The scores after the processors, in the order in which transformers' generate() applies them."""
    wanted = LogitsProcessorList()
    if "r" in processors and options["repetition_penalty"] != 1.0:
        wanted.append(RepetitionPenaltyLogitsProcessor(options["repetition_penalty"]))
    if "t" in processors and options["temperature"] != 1.0:
        wanted.append(TemperatureLogitsWarper(options["temperature"]))
    if "k" in processors and options["top_k"]:
        wanted.append(TopKLogitsWarper(options["top_k"]))
    if "p" in processors and options["top_p"] < 1.0:
        wanted.append(TopPLogitsWarper(options["top_p"]))
    history = torch.from_numpy(options["history"])[None]
    return wanted(history, torch.from_numpy(logits.copy())[None])[0]


def check_against_transformers(logits: Logits, **options: Any) -> None:
    options = PLAIN | options
    ours = _core.token_probabilities(logits, **options)
    theirs = torch.softmax(transformers_scores(logits, options).double(), -1).numpy()
    kept, kept_by_them = ours > NEGLIGIBLE, theirs > NEGLIGIBLE
    different = np.flatnonzero(kept != kept_by_them)
    if different.size:
        # At the limit of top p the two may differ by the rounding of transformers' float32 sums, or in the
        # order of equal scores; then the tokens in question are those at the limit and nowhere else.
        before = torch.softmax(transformers_scores(logits, options, "rtk").double(), -1).numpy()
        better = np.array([before[before > before[token]].sum() for token in different])
        equal = np.array([before[before == before[token]].sum() for token in different])
        slack = 1e-4 + len(logits) * 1e-7
        at_limit = (better < options["top_p"] + slack) & (better + equal > options["top_p"] - slack)
        assert at_limit.all(), different
        assert abs(int(kept.sum()) - int(kept_by_them.sum())) <= 1 + len(logits) // 10_000
        theirs = np.where(kept, before, 0)
        theirs /= theirs.sum()
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-12)


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    vocabulary=st.sampled_from([1, 2, 3, 50, 1000, 7777]),
    spread=st.sampled_from([0.01, 1.0, 5.0, 40.0]),
    decimals=st.sampled_from([None, 0, 1]),
    temperature=st.sampled_from([0.1, 0.7, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 2, 50, 999, 100_000]),
    top_p=st.sampled_from([0.0, 0.01, 0.5, 0.9, 0.95, 0.999, 1.0]),
    repetition_penalty=st.sampled_from([0.5, 1.0, 1.1, 5.0]),
)
def test_equals_transformers(
    seed: int,
    vocabulary: int,
    spread: float,
    decimals: int | None,
    temperature: float,
    top_k: int,
    top_p: float,
    repetition_penalty: float,
) -> None:
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal(vocabulary) * spread).astype(np.float32)
    if decimals is not None:
        logits = np.round(logits, decimals)  # many equal scores
    check_against_transformers(
        logits,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        history=rng.integers(0, vocabulary, 20),
    )


@pytest.mark.parametrize("spread", [0.0, 1.0, 6.0])
def test_a_whole_vocabulary(spread: float) -> None:
    rng = np.random.default_rng(3)
    logits = (rng.standard_normal(151_674) * spread).astype(np.float32)
    options = {"temperature": 0.7, "repetition_penalty": 1.1, "history": rng.integers(0, len(logits), 4000)}
    check_against_transformers(logits, top_k=50, **options)
    check_against_transformers(logits, top_k=50, top_p=0.9, **options)
    if spread:
        check_against_transformers(logits, top_p=0.95, **options)


def test_of_equal_scores_top_p_keeps_the_lowest_ids() -> None:
    probabilities = _core.token_probabilities(np.zeros(10, np.float32), **PLAIN | {"top_p": 0.35})
    np.testing.assert_allclose(probabilities, [0.25] * 4 + [0] * 6)


def test_top_k_keeps_all_that_equal_the_last() -> None:
    logits = np.array([1, 3, 2, 2, 2, 0], np.float32)
    assert np.flatnonzero(_core.token_probabilities(logits, **PLAIN | {"top_k": 2})).tolist() == [1, 2, 3, 4]


def test_excluded_tokens_stay_excluded() -> None:
    logits = np.array([-np.inf, 0, -np.inf, 1], np.float32)
    for options in ({}, {"top_k": 3}, {"top_p": 0.99}, {"temperature": 3.0}):
        temperature = options.get("temperature", 1.0)
        probabilities = _core.token_probabilities(logits, **PLAIN | options)
        assert np.flatnonzero(probabilities).tolist() == [1, 3]
        np.testing.assert_allclose(probabilities[3] / probabilities[1], np.exp(1 / temperature))


def test_ids_beyond_the_vocabulary_are_ignored() -> None:
    logits = np.array([1, 2, 3], np.float32)
    history = np.array([1, 3, 50_000], np.int64)
    check_against_transformers(logits, repetition_penalty=2.0, history=history)


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.6}, {"temperature": 0.5, "top_k": 5}])
def test_draws_follow_the_probabilities(options: dict[str, Any]) -> None:
    logits = np.array([0.5, 2.0, -1.0, 1.5, 1.0, 0.0], np.float32)
    expected = torch.softmax(transformers_scores(logits, PLAIN | options).double(), -1).numpy()
    sampler = _core.Sampler(seed=11)
    draws = 40_000
    counts = np.bincount([sampler.sample(logits, **PLAIN | options) for _ in range(draws)], minlength=6)
    assert (counts[expected == 0] == 0).all()
    kept = expected > 0
    # Chi-squared with at most 5 degrees of freedom: beyond 25.7 for one seed in ten thousand.
    assert ((counts - draws * expected)[kept] ** 2 / (draws * expected)[kept]).sum() < 25.7


def draw(sampler: _core.Sampler, count: int = 50) -> list[int]:
    logits = np.zeros(1000, np.float32)
    return [sampler.sample(logits, **PLAIN) for _ in range(count)]


def test_a_seed_decides_the_draws() -> None:
    assert draw(_core.Sampler(5)) == draw(_core.Sampler(5))
    assert draw(_core.Sampler(5)) != draw(_core.Sampler(6))
    assert draw(_core.Sampler(2**64 - 1)) != draw(_core.Sampler(2**32 - 1))


def test_forks_are_streams_of_their_own() -> None:
    parent = _core.Sampler(5)
    first = draw(parent.fork(0))
    draw(parent)
    assert draw(parent.fork(0)) == first, "a fork does not depend on what its parent has drawn"
    streams = [draw(_core.Sampler(5))] + [draw(parent.fork(index)) for index in range(20)]
    streams += [draw(parent.fork(0).fork(0)), draw(parent.fork(1).fork(0)), draw(parent.fork(0).fork(1))]
    assert len({tuple(stream) for stream in streams}) == len(streams)
    # Independent streams agree in one place of a thousand.
    agreements = sum(
        a == b for i, one in enumerate(streams) for two in streams[:i] for a, b in zip(one, two, strict=True)
    )
    assert agreements < 40  # 13.8 expected


def test_one_sampler_may_be_used_by_several_threads() -> None:
    sampler = _core.Sampler(9)
    drawn: list[int] = []
    threads = [threading.Thread(target=lambda: drawn.extend(draw(sampler, 200))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(drawn) == sorted(draw(_core.Sampler(9), 800))


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 300), penalty=st.sampled_from([1.0, 1.3, 0.7]))
def test_argmax(seed: int, size: int, penalty: float) -> None:
    rng = np.random.default_rng(seed)
    logits = np.round(rng.standard_normal(size) * 3).astype(np.float32)  # many equals
    history = rng.integers(0, size, rng.integers(0, 30))
    scores = transformers_scores(logits, PLAIN | {"repetition_penalty": penalty, "history": history}).numpy()
    assert _core.argmax(logits, penalty, history) == scores.argmax()


def test_argmax_of_infinities() -> None:
    none = np.zeros(0, np.int64)
    assert _core.argmax(np.array([0, np.inf, np.inf], np.float32), 1.0, none) == 1
    assert _core.argmax(np.full(40, -np.inf, np.float32), 1.0, none) == 0


@pytest.mark.parametrize("place", [0, 5, 16, 39])
def test_nan_is_an_error_and_not_a_token(place: int) -> None:
    logits = np.zeros(40, np.float32)
    logits[place] = np.nan
    sampler = _core.Sampler(1)
    with pytest.raises(InternVLError, match=r"NaN.*inspect BUNDLE --verify.*fp16"):
        sampler.sample(logits, **PLAIN)
    with pytest.raises(InternVLError, match="NaN"):
        _core.argmax(logits, 1.0, PLAIN["history"])
    assert draw(sampler) == draw(_core.Sampler(1)), "a failed call draws nothing"


@pytest.mark.parametrize(
    ("logits", "says"),
    [([], "no logits"), ([np.inf, 0.0], "infinity"), ([-np.inf, -np.inf], "infinity")],
)
def test_logits_that_have_no_distribution(logits: list[float], says: str) -> None:
    with pytest.raises(InternVLError, match=says):
        _core.Sampler(1).sample(np.array(logits, np.float32), **PLAIN)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": -0.1},
        {"top_p": 1.1},
        {"top_p": float("nan")},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": float("nan")},
        {"history": np.array([-1])},
        {"history": np.zeros((2, 2), np.int64)},
    ],
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(PromptError, match=next(iter(options))):
        _core.Sampler(1).sample(np.zeros(4, np.float32), **PLAIN | options)
